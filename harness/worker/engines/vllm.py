"""vLLM (0.26 to 0.33): `AsyncLLM`, as its server and RL frameworks drive it, or its engine in this process."""

import asyncio
import itertools
import math
import os
import threading
import time
from functools import partial
from typing import Any

from harness.rollouts import Answer
from harness.worker import options as equivalent
from harness.worker.engines import Options, Report, Sampling, unheard
from harness.worker.engines.children import end_with_children
from harness.worker.engines.inprocess import InProcess
from harness.worker.receive import answers
from harness.worker.shortcut import Shortcut
from harness.worker.transports import ray_stand_in

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_HOST_IP": "127.0.0.1",
    # The FlashInfer sampler compiles just in time for minutes at the first request.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    # CPU lane: threads are counted by OMP_NUM_THREADS and left to the scheduler, as SGLang's are.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
}
BACKENDS = {  # of vLLM's own weight transfer: what it needs besides
    "ipc": {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"},  # handles come pickled, from the sender of the same launch
}

ADAPTER = 1  # the number of the only adapter
LEVELS = {(None, None): 0, ("backed_up", "discarded"): 1, ("discarded", "discarded"): 2}  # by weights and cache
TAGS = ("weights", "kv_cache")  # CUDA graphs, where they were released, come back with either
PAUSES = {"abort": "abort", "drain": "wait", "keep": "keep", "recompute": "keep"}


class VLLM:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.numbers = itertools.count()
        self.closed = threading.Event()
        self.llm: Any = None
        self.adapter: Options = {}  # what a request says of it
        self.shortcut = Shortcut()

    @staticmethod
    def environment(options: Options, device: str) -> dict[str, str]:
        own = BACKENDS.get(_backend(options), {})
        return ENVIRONMENT | own | {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(options["multiprocessing"]))}

    @staticmethod
    def flags(load_format: str, options: Options, device: str) -> Options:
        return {
            "load_format": load_format,
            "skip_tokenizer_init": True,
            "disable_log_stats": False,  # request metrics need it
            "worker_extension_cls": "harness.worker.inside.Extension",
            **equivalent.flags("vllm", options, device),
            **options["native"],
        }

    def start(self, model: str, load_format: str, options: Options, device: str) -> Options:
        os.environ.update(self.environment(options, device))
        if _backend(options) == "ipc":
            ray_stand_in.install_where_missing()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.llm_engine import LLMEngine

        flags = self.flags(load_format, options, device)
        arguments = AsyncEngineArgs(model=model, **flags)
        self.apart = options["multiprocessing"]
        if self.apart:

            async def make() -> Any:
                return AsyncLLM.from_engine_args(arguments)

            self.llm = self.loop.run_until_complete(make())
            self.config = self.llm.vllm_config
            end_with_children(self.closed)
        else:
            self.llm = InProcess(lambda: LLMEngine.from_engine_args(arguments), self.loop)
            self.config = self.llm.engine.vllm_config
        self.flushes = (
            self.config.parallel_config.distributed_executor_backend == "uni"
        )  # core and model in one process
        ((attention, *_),) = self._ask(("collective_rpc", "rollbench_attention"))
        resolved = self._resolved(flags, self.config)
        resolved |= attention
        return resolved

    def _resolved(self, asked: Options, config: Any) -> Options:
        graphs = config.compilation_config
        return asked | {
            "vocab_size": config.model_config.hf_config.vocab_size,
            "max_model_len": config.model_config.max_model_len,
            "dtype": str(config.model_config.dtype),
            "block_size": config.cache_config.block_size,
            "kv_cache_dtype": str(config.cache_config.cache_dtype),
            "num_gpu_blocks": config.cache_config.num_gpu_blocks,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "chunked_prefill": config.scheduler_config.enable_chunked_prefill,
            "async_scheduling": getattr(config.scheduler_config, "async_scheduling", None),
            "compilation": str(graphs.mode),
            "cudagraph_mode": str(graphs.cudagraph_mode),
            "cudagraph_max": max(graphs.cudagraph_capture_sizes or [0]),
            "speculative_method": getattr(config.speculative_config, "method", None),
        }

    async def answer(self, ids: list[int], count: int, sampling: Sampling, report: Report = unheard) -> Answer:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=sampling.temperature,
            max_tokens=count,
            ignore_eos=True,
            detokenize=False,
            logprobs=0 if sampling.logprobs else None,  # the chosen token's alone
            flat_logprobs=True,  # as lists of numbers, not as objects for each token
            output_kind=RequestOutputKind.CUMULATIVE if sampling.stream else RequestOutputKind.FINAL_ONLY,
        )
        sent, last, stamps = time.perf_counter(), None, list[float]()
        answers = self.llm.generate({"prompt_token_ids": ids}, parameters, str(next(self.numbers)), **self.adapter)
        async for last in answers:
            stamps.append(time.perf_counter())
            report(len(last.outputs[0].token_ids))
        if last is None or not last.finished or last.outputs[0].finish_reason == "abort":
            return Answer([], ids, len(ids), 0, first=math.nan, done=time.perf_counter(), aborted=True)
        return _answer(last, sent, stamps)

    def preemptions(self) -> int:
        from vllm.v1.metrics.reader import get_metrics_snapshot

        found = (m.value for m in get_metrics_snapshot() if m.name == "vllm:num_preemptions")
        return int(sum(found))

    def memory(self) -> dict[str, float]:
        found: dict[str, float] = self.weights({"do": "memory"}, flush=False)[0]
        return found

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Of `AsyncLLM`, or of the same name of the engine in this process."""
        if self.apart:
            return await getattr(self.llm, name)(*args, **kwargs)
        return await asyncio.wrap_future(self.llm.do(partial(getattr(self.llm.engine, name), *args, **kwargs)))

    def _ask(self, *calls: tuple[Any, ...]) -> list[Any]:
        """Make calls one behind the other without waiting in between; what they return."""

        async def ask() -> list[Any]:
            return await asyncio.gather(*(self.call(name, *args) for name, *args in calls))

        return self.loop.run_until_complete(ask())

    def _do(self, name: str, **arguments: Any) -> Any:
        """Call one method of the engine by name."""
        if not self.apart:
            return self.llm.do(partial(getattr(self.llm.engine, name), **arguments)).result()
        return self.loop.run_until_complete(getattr(self.llm, name)(**arguments))

    async def pause(self, mode: str) -> None:
        if self.apart:  # which sleeps for 20 ms when all is done
            await self.llm.pause_generation(mode=PAUSES[mode], clear_cache=False)
        else:
            await self.llm.pause(PAUSES[mode])

    async def resume(self) -> None:
        await (self.llm.resume_generation() if self.apart else self.llm.resume())

    async def take(self, request: Options) -> list[Any]:
        return answers(await self.call("collective_rpc", "rollbench", None, (request,)))

    async def forget(self, running: bool) -> bool:
        return bool(await self.call("reset_prefix_cache", running))

    def straight(self, wanted: bool) -> bool:
        return self.shortcut.use(wanted, lambda request: self.weights(request, flush=False)[0])

    def weights(self, request: Options, flush: bool) -> list[Any]:
        if self.shortcut.used:
            return answers([self.shortcut.ask(request | {"flush": True} if flush else request)])
        replies, *done = self._ask(*self._inside(request, flush))
        found = answers(replies)
        self.flushed(*done)
        return found

    def _inside(self, request: Options, flush: bool) -> list[tuple[Any, ...]]:
        """Calls for a request to the model's processes, with `flush` one that empties the prefix cache."""
        if flush and self.flushes:
            request, flush = request | {"flush": True}, False
        return [("collective_rpc", "rollbench", None, (request,)), *([("reset_prefix_cache",)] if flush else [])]

    def adapt(self, path: str) -> None:
        """The prefix cache is keyed by an adapter's name (0.32: and path), so each has a name of its own."""
        from vllm.lora.request import LoRARequest

        name = f"adapter-{next(self.numbers)}"
        load = "add_lora", LoRARequest(name, ADAPTER, path, load_inplace=True)
        loaded, replies, *done = self._ask(load, *self._inside({"do": "adapted", "name": name}, flush=True))
        if not loaded:
            raise RuntimeError(f"vLLM did not load the adapter in {path}")
        answers(replies)
        self.flushed(*done)
        self.adapter = {"lora_request": LoRARequest(name, ADAPTER, path)}

    def sleep(self, released: dict[str, str]) -> None:
        what = released.get("weights"), released.get("kv_cache")
        if what in LEVELS:
            self._do("sleep", level=LEVELS[what])
        elif what == (None, "discarded"):  # not in 0.26
            self._do("sleep", level=0)
            self._do("release_kv_cache_memory")
        else:  # no version so far has these tags, and says so
            self._do("sleep", level=1 if released["weights"] == "backed_up" else 2, tags=["weights"])

    def wake(self, parts: list[str]) -> None:
        self._do("wake_up", tags=[part for part in parts if part in TAGS] or ["scheduling"])

    def flush(self) -> None:
        self.flushed(*self._ask(("reset_prefix_cache",)))

    @staticmethod
    def flushed(done: bool = True) -> None:
        """Raises RuntimeError for the answer of a `reset_prefix_cache` that refused."""
        if not done:
            raise RuntimeError("vLLM did not reset its prefix cache: requests are still running")

    def close(self) -> None:
        self.closed.set()
        if self.llm is not None and self.apart:
            self.llm.shutdown()
        elif self.llm is not None:
            self.llm.do(self.llm.engine.engine_core.shutdown).result()


def _backend(options: Options) -> str:
    """Of vLLM's own weight transfer; empty without."""
    return str(options["native"].get("weight_transfer_config", {}).get("backend", ""))


def _answer(output: Any, sent: float, stamps: list[float]) -> Answer:
    """`output` is the last one of a request that went out at `sent`. vLLM stamps arrivals on the wall clock and tokens
    on the engine's monotonic one, so only differences on one clock are taken."""
    completion, metrics = output.outputs[0], output.metrics
    found = completion.logprobs
    chosen = [found.logprobs[first] for first in found.start_indices] if found else []
    return Answer(
        list(completion.token_ids),
        prompt_ids=output.prompt_token_ids,
        prompt=len(output.prompt_token_ids),
        cached=output.num_cached_tokens or 0,
        first=sent + metrics.first_token_latency,
        done=stamps[-1],
        queued=metrics.scheduled_ts - metrics.queued_ts,
        logprobs=chosen,
        stamps=stamps if len(stamps) > 1 else (),
    )

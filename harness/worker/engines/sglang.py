"""SGLang (0.5.17 to 0.5.23) through the tokenizer manager of its `Engine` class, as its server drives it."""

import asyncio
import json
import math
import os
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.rollouts import Answer
from harness.worker import options as equivalent
from harness.worker.engines import Options, Report, Sampling, unheard
from harness.worker.engines.children import end_with_children
from harness.worker.receive import answers
from harness.worker.shortcut import Shortcut

DEVICE_FLAGS: dict[str, Options] = {
    # The memory fraction only has to be enough for `kv_tokens`: SGLang would derive one below 0 from the prefill chunk.
    "cpu": {"device": "cpu", "attention_backend": "torch_native", "disable_cuda_graph": True,
            "lora_backend": "torch_native", "mem_fraction_static": 0.5},
    # The prefill graphs take 80 s to capture, FlashInfer's sampler minutes to compile.
    "cuda": {"disable_prefill_cuda_graph": True, "sampling_backend": "pytorch"},
}  # fmt: skip
RESOLVED = (  # flags that SGLang may set itself and that bear on a result
    "attention_backend", "prefill_attention_backend", "decode_attention_backend", "sampling_backend",
    "chunked_prefill_size", "max_prefill_tokens", "max_running_requests", "max_total_tokens", "mem_fraction_static",
    "page_size", "kv_cache_dtype", "schedule_policy", "disable_overlap_schedule", "tp_size", "cuda_graph_bs_decode",
    "disable_cuda_graph", "disable_prefill_cuda_graph", "disable_radix_cache", "quantization",
    "pp_size", "speculative_algorithm",
)  # fmt: skip
INSTALL = "harness.worker.inside.sglang_install"
TAGS = {"weights": "weights", "kv_cache": "kv_cache", "cuda_graphs": "cuda_graph"}  # of memory that is released
PAUSES = {"keep": "in_place", "recompute": "retract"}
ABORTED = "RequestAbortedError"  # 0.5.17 raises it for a request that it had not sent to its scheduler
ABORT_AGAIN = 0.1  # seconds: a request on its way to the scheduler escapes an abort of all
IDLE = 1.0  # seconds that a flush may wait for the last batch to be over
STREAM_INTERVAL = 1 << 20  # tokens between two outputs of a request: the first, then only the last


class SGLang:
    def __init__(self) -> None:
        self.engine: Any = None
        self.lost = 0
        self.closed = threading.Event()
        self.installed = False
        self.adapters = 0  # loaded so far
        self.adapter: str | None = None  # the last one's name
        self.shortcut = Shortcut()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = self.engine.loop
        return loop

    @staticmethod
    def environment(options: Options, device: str) -> dict[str, str]:
        return {"SGLANG_USE_CPU_ENGINE": "1"} if device == "cpu" else {}

    @staticmethod
    def flags(load_format: str, options: Options, device: str) -> Options:
        return {
            "load_format": load_format,
            "skip_tokenizer_init": True,
            "grammar_backend": "none",
            "log_level": "info",
            "stream_interval": STREAM_INTERVAL,
            "enable_metrics": True,  # queue times need it
            "custom_weight_loader": [INSTALL],
            **DEVICE_FLAGS[device],
            **equivalent.flags("sglang", options, device),
            **options["native"],
        }

    def start(self, model: str, load_format: str, options: Options, device: str) -> Options:
        os.environ.update(self.environment(options, device))
        from sglang import Engine

        flags = self.flags(load_format, options, device)
        self.engine = Engine(model_path=model, **flags)
        end_with_children(self.closed)
        return self._resolved(flags)

    def _resolved(self, asked: Options) -> Options:
        server, model = self.engine.server_args, self.engine.tokenizer_manager.model_config
        flags = server.resolved_dict() if hasattr(server, "resolved_dict") else asdict(server)
        return asked | {name: flags[name] for name in RESOLVED if name in flags} | {
            "vocab_size": model.hf_config.vocab_size,
            "max_model_len": model.context_len,
            "dtype": str(model.dtype),
            "max_total_num_tokens": self.engine.get_server_info().get("max_total_num_tokens"),  # of the cache
        }  # fmt: skip

    async def answer(self, ids: list[int], count: int, sampling: Sampling, report: Report = unheard) -> Answer:
        from sglang.srt.managers.io_struct import GenerateReqInput

        request = GenerateReqInput(
            input_ids=ids,
            sampling_params={
                "temperature": sampling.temperature,
                "max_new_tokens": count,
                "ignore_eos": True,
                **({"stream_interval": 1} if sampling.stream else {}),
            },
            return_logprob=sampling.logprobs,
            return_prompt_token_ids=True,
            stream=True,
            lora_path=self.adapter,
        )
        last, stamps = {}, []
        try:
            async for last in self.engine.tokenizer_manager.generate_request(request, None):
                stamps.append(time.perf_counter())
                report(last["meta_info"]["completion_tokens"])
        except Exception as error:
            if type(error).__name__ != ABORTED:
                raise
        if not last or last["meta_info"]["finish_reason"]["type"] == "abort":
            return Answer([], ids, len(ids), 0, first=math.nan, done=time.perf_counter(), aborted=True)
        self.lost += last["meta_info"].get("num_retractions", 0)
        return _answer(last, stamps, sampling.stream)

    def preemptions(self) -> int:
        return self.lost

    def memory(self) -> dict[str, float]:
        found: dict[str, float] = self.weights({"do": "memory"}, flush=False)[0]
        return found

    def straight(self, wanted: bool) -> bool:
        return self.shortcut.use(wanted, lambda request: self.weights(request, flush=False)[0])

    def weights(self, request: Options, flush: bool) -> list[Any]:
        if not self.installed:
            import torch

            self.engine.update_weights_from_tensor([("rollbench", torch.zeros(1))], INSTALL, flush_cache=False)
            self.reply = Path(tempfile.mkdtemp(dir=Path.cwd())) / "reply"
            self.installed = True
        asked = request | {"flush": True} if flush else request
        if self.shortcut.used:
            return answers([self.shortcut.ask(asked)])
        replies = [Path(f"{self.reply}.{rank}") for rank in range(self.engine.server_args.tp_size)]
        for reply in replies:
            reply.unlink(missing_ok=True)  # SGLang says of the first rank alone whether it raised
        self.engine.collective_rpc("rollbench", request=asked, reply=str(self.reply))
        return answers([json.loads(reply.read_text()) for reply in replies])

    def adapt(self, path: str) -> None:
        """SGLang brings an adapter to the device with the first batch that needs it: here it must be there before. The
        prefix cache is keyed by a random id that each load gets."""
        name, last = f"adapter-{self.adapters}", self.adapter
        _succeeded(self.engine.load_lora_adapter(name, path))
        self.adapter, self.adapters = name, self.adapters + 1
        if last is not None:
            _succeeded(self.engine.unload_lora_adapter(last))
        self.weights({"do": "adapted", "name": name}, flush=True)

    async def pause(self, mode: str) -> None:
        """SGLang's own pause with `abort` looks once a second whether all is gone. This does what it does, abort all
        and wait for the lock that each request holds a part of, without the second; to drain, the lock alone."""
        from sglang.srt.managers.io_struct import PauseGenerationReqInput

        manager, self.paused = self.engine.tokenizer_manager, mode
        if mode in PAUSES:
            await manager.pause_generation(PauseGenerationReqInput(mode=PAUSES[mode]))
            await manager.get_internal_state()  # the scheduler answers it behind the pause, which it does not answer
            return
        drained = asyncio.ensure_future(manager.model_update_lock.acquire_writer())
        while not drained.done():
            if mode == "abort":
                manager.abort_request(abort_all=True)
            await asyncio.wait([drained], timeout=ABORT_AGAIN)
        await drained

    async def resume(self) -> None:
        from sglang.srt.managers.io_struct import ContinueGenerationReqInput

        manager = self.engine.tokenizer_manager
        if self.paused in PAUSES:
            await manager.continue_generation(ContinueGenerationReqInput())
        else:
            await manager.model_update_lock.release_writer()

    async def take(self, request: Options) -> list[Any]:
        """Behind a first `weights`, which installs what answers."""
        return await asyncio.to_thread(self.weights, request, flush=False)

    async def forget(self, running: bool) -> bool:
        """What is retracted waits, and SGLang refuses as long as anything does."""
        return bool((await self.engine.tokenizer_manager.flush_cache()).success)

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Of the tokenizer manager, as SGLang's server and its `Engine` make it."""
        return await getattr(self.engine.tokenizer_manager, name)(*args, **kwargs)

    def sleep(self, released: dict[str, str]) -> None:
        """Whether weights are backed up was said at the start. An empty list of tags would mean all of them."""
        if released:
            self.engine.release_memory_occupation([TAGS[part] for part in released])
        else:
            from sglang.srt.managers.io_struct import PauseGenerationReqInput

            self._tell("pause_generation", PauseGenerationReqInput(mode="in_place"))

    def wake(self, parts: list[str]) -> None:
        if parts:
            self.engine.resume_memory_occupation([TAGS[part] for part in parts])
        else:
            from sglang.srt.managers.io_struct import ContinueGenerationReqInput

            self._tell("continue_generation", ContinueGenerationReqInput())

    def _tell(self, name: str, message: Any) -> None:
        """Send the scheduler a message that it does not answer, and wait for the answer to another behind it."""
        manager = self.engine.tokenizer_manager
        self.loop.run_until_complete(getattr(manager, name)(message))
        self.loop.run_until_complete(manager.get_internal_state())

    def flush(self) -> None:
        """The last outputs come before the scheduler is through with their batch, so that it may wait for that."""
        answer = self.loop.run_until_complete(self.engine.tokenizer_manager.flush_cache(timeout_s=IDLE))
        if not answer.success:
            raise RuntimeError(f"SGLang did not flush its cache: {answer}")

    def close(self) -> None:
        self.closed.set()
        if self.engine is not None:
            self.engine.shutdown()


def _succeeded(answer: Any) -> None:
    if not answer.success:
        raise RuntimeError(f"SGLang refused the adapter: {answer.error_message}")


def _answer(chunk: Any, stamps: list[float], streamed: bool) -> Answer:
    """`chunk` is the last output of a request; `stamps` are the times of all."""
    meta = chunk["meta_info"]
    return Answer(
        chunk["output_ids"],
        prompt_ids=chunk["prompt_token_ids"],
        prompt=meta["prompt_tokens"],
        cached=meta["cached_tokens"],
        first=stamps[0],
        done=stamps[-1],
        queued=meta.get("queue_time", float("nan")),
        logprobs=[score for score, *_ in meta.get("output_token_logprobs") or []],
        stamps=stamps if streamed else (),
    )

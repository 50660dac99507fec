"""vLLM through its offline `LLM` class (vLLM 0.26 to 0.33)."""

import os
import time
from typing import Any

from harness.rollouts import Finished, Prompts, Rollouts, gather
from harness.worker.engines import Options

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


class VLLM:
    @staticmethod
    def environment(options: Options, device: str) -> dict[str, str]:
        return ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(options["multiprocessing"]))}

    @staticmethod
    def flags(load_format: str, options: Options, device: str) -> Options:
        return {
            "load_format": load_format,
            "skip_tokenizer_init": True,
            "disable_log_stats": False,  # request metrics need it
            "dtype": options["dtype"],
            "seed": options["seed"],
            "max_model_len": options["max_model_len"],
            "max_num_seqs": options["max_running"],
            "enforce_eager": options["eager"],
            "enable_prefix_caching": options["prefix_caching"],
            **({"gpu_memory_utilization": options["memory_fraction"]} if device == "cuda" else {}),
            **options["native"],
        }

    def start(self, model: str, load_format: str, options: Options, device: str) -> Options:
        os.environ.update(self.environment(options, device))
        from vllm import LLM

        flags = self.flags(load_format, options, device)
        self.llm = LLM(model=model, **flags)
        return self._resolved(flags)

    def _resolved(self, asked: dict[str, Any]) -> Options:
        config = self.llm.llm_engine.vllm_config
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
            "compilation": str(graphs.mode),
            "cudagraph_mode": str(graphs.cudagraph_mode),
            "cudagraph_max": max(graphs.cudagraph_capture_sizes or [0]),
        }

    def generate(self, prompts: Prompts, temperature: float, logprobs: bool) -> Rollouts:
        from vllm import SamplingParams

        lists = prompts.lists
        sampling = [
            SamplingParams(
                temperature=temperature,
                max_tokens=count,
                ignore_eos=True,
                detokenize=False,
                logprobs=0 if logprobs else None,  # the chosen token's alone
            )
            for count in prompts.output_B.tolist()
        ]
        wall, start = time.time(), time.perf_counter()
        outputs = self.llm.generate([{"prompt_token_ids": ids} for ids in lists], sampling, use_tqdm=False)
        seconds = time.perf_counter() - start
        return gather([_finished(o, wall) for o in outputs], [o.prompt_token_ids for o in outputs], seconds)

    def flush(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: requests are still running")

    def close(self) -> None:
        if hasattr(self, "llm"):
            self.llm.llm_engine.engine_core.shutdown()


def _finished(output: Any, wall: float) -> Finished:
    """Times from the start of the call, `wall` on the wall clock: vLLM stamps arrivals on the wall clock and tokens on
    the engine's monotonic one, so only differences on one clock are taken."""
    completion, metrics = output.outputs[0], output.metrics
    first = metrics.arrival_time - wall + metrics.first_token_latency
    chosen = [step[token].logprob for token, step in zip(completion.token_ids, completion.logprobs or [], strict=False)]
    return Finished(
        list(completion.token_ids),
        prompt=len(output.prompt_token_ids),
        cached=output.num_cached_tokens or 0,
        first=first,
        done=first + metrics.last_token_ts - metrics.first_token_ts,
        logprobs=chosen,
    )

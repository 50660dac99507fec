"""SGLang through its offline `Engine` class (SGLang 0.5.17 to 0.5.23)."""

import os
import time
from dataclasses import asdict
from typing import Any

from harness.rollouts import Finished, Prompts, Rollouts, gather
from harness.worker.engines import Options

DEVICE_FLAGS: dict[str, Options] = {
    "cpu": {"device": "cpu", "attention_backend": "torch_native", "disable_cuda_graph": True,
            "max_total_tokens": 40_000},
    # The prefill graphs take 80 s to capture, FlashInfer's sampler minutes to compile.
    "cuda": {"disable_prefill_cuda_graph": True, "sampling_backend": "pytorch"},
}  # fmt: skip
RESOLVED = (  # flags that SGLang may set itself and that bear on a result
    "attention_backend", "prefill_attention_backend", "decode_attention_backend", "sampling_backend",
    "chunked_prefill_size", "max_prefill_tokens", "max_running_requests", "max_total_tokens", "mem_fraction_static",
    "page_size", "kv_cache_dtype", "schedule_policy", "disable_overlap_schedule", "tp_size", "cuda_graph_bs_decode",
    "disable_cuda_graph", "disable_prefill_cuda_graph", "disable_radix_cache", "quantization",
)  # fmt: skip
STREAM_INTERVAL = 1 << 20  # tokens between two outputs of a request: the first, then only the last


class SGLang:
    @staticmethod
    def environment(options: Options, device: str) -> dict[str, str]:
        return {"SGLANG_USE_CPU_ENGINE": "1"} if device == "cpu" else {}

    @staticmethod
    def flags(load_format: str, options: Options, device: str) -> Options:
        found: Options = {
            "load_format": load_format,
            "skip_tokenizer_init": True,
            "grammar_backend": "none",
            "log_level": "info",
            "stream_interval": STREAM_INTERVAL,
            "dtype": options["dtype"],
            "random_seed": options["seed"],
            "context_length": options["max_model_len"],
            "max_running_requests": options["max_running"],
            "disable_radix_cache": not options["prefix_caching"],
            **DEVICE_FLAGS[device],
        }
        if device == "cuda":
            found["mem_fraction_static"] = options["memory_fraction"]
            # The default stops at 256: beyond it decoding falls out of the graphs. vLLM's stops at 512.
            graphs = {"cuda_graph_max_bs_decode": options["max_running"]}
            found |= {"disable_cuda_graph": True} if options["eager"] else graphs
        found |= options["native"]
        return found

    def start(self, model: str, load_format: str, options: Options, device: str) -> Options:
        os.environ.update(self.environment(options, device))
        from sglang import Engine

        flags = self.flags(load_format, options, device)
        self.engine = Engine(model_path=model, **flags)
        return self._resolved(flags)

    def _resolved(self, asked: Options) -> Options:
        server, model = self.engine.server_args, self.engine.tokenizer_manager.model_config
        flags = server.resolved_dict() if hasattr(server, "resolved_dict") else asdict(server)
        return asked | {name: flags[name] for name in RESOLVED if name in flags} | {
            "vocab_size": model.hf_config.vocab_size,
            "max_model_len": model.context_len,
            "dtype": str(model.dtype),
        }  # fmt: skip

    def generate(self, prompts: Prompts, temperature: float, logprobs: bool) -> Rollouts:
        lists = prompts.lists
        sampling = [
            {"temperature": temperature, "max_new_tokens": count, "ignore_eos": True}
            for count in prompts.output_B.tolist()
        ]
        start = time.perf_counter()
        first: dict[int, float] = {}
        last: dict[int, tuple[float, Any]] = {}
        for chunk in self.engine.generate(
            input_ids=lists, sampling_params=sampling, return_logprob=logprobs, stream=True
        ):
            now = time.perf_counter() - start
            first.setdefault(chunk["index"], now)
            last[chunk["index"]] = now, chunk
        seconds = time.perf_counter() - start
        return gather([_finished(*last[i], first[i]) for i in range(len(lists))], lists, seconds)

    def flush(self) -> None:
        answer = self.engine.flush_cache()
        if not answer.success:
            raise RuntimeError(f"SGLang did not flush its cache: {answer}")

    def close(self) -> None:
        if hasattr(self, "engine"):
            self.engine.shutdown()


def _finished(done: float, chunk: Any, first: float) -> Finished:
    meta = chunk["meta_info"]
    return Finished(
        chunk["output_ids"],
        prompt=meta["prompt_tokens"],
        cached=meta["cached_tokens"],
        first=first,
        done=done,
        logprobs=[score for score, *_ in meta.get("output_token_logprobs") or []],
    )

"""The equivalence table: each neutral engine option, and the flags that say the same to vLLM and to SGLang.

A flag that this table does not set is the engine's default, and stands in the record as the engine resolved it.
`rollbench options` shows the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Flags = dict[str, Any]
ATTENTION = {  # neutral: vLLM's, SGLang's
    "fa3": ("FLASH_ATTN", "fa3"),
    "flashinfer": ("FLASHINFER", "flashinfer"),
    "triton": ("TRITON_ATTN", "triton"),
    "torch-native": ("FLEX_ATTENTION", "torch_native"),
}
KV_DTYPE = {"fp8": ("fp8_e4m3", "fp8_e4m3"), "bfloat16": ("bfloat16", "bf16")}
BLOCK = {"cpu": 128, "cuda": 16}  # tokens in a block of vLLM's cache


@dataclass(frozen=True)
class Row:
    """A neutral option: what it means, its flags for a value, and the device on which it has an effect."""

    meaning: str
    vllm: Callable[[Any], Flags]
    sglang: Callable[[Any], Flags]
    device: str = ""  # both


def _attention(value: str, engine: int) -> Flags:
    return {"attention_backend": ATTENTION[value][engine]} if value != "auto" else {}


def _kv_dtype(value: str, engine: int) -> Flags:
    return {"kv_cache_dtype": KV_DTYPE[value][engine]} if value != "auto" else {}


ROWS = {
    "dtype": Row("of weights and activations", lambda v: {"dtype": v}, lambda v: {"dtype": v}),
    "seed": Row("of sampling", lambda v: {"seed": v}, lambda v: {"random_seed": v}),
    "tensor_parallel": Row(
        "processes that share each matrix, a GPU each",
        lambda v: {"tensor_parallel_size": v} if v > 1 else {}, lambda v: {"tp_size": v} if v > 1 else {},
    ),
    "max_model_len": Row(
        "tokens of a prompt and its answer", lambda v: {"max_model_len": v}, lambda v: {"context_length": v}
    ),
    "max_running": Row(
        "requests at once", lambda v: {"max_num_seqs": v}, lambda v: {"max_running_requests": v}
    ),
    "chunked_prefill": Row(
        "prompt tokens in one forward pass; longer prompts are cut",
        lambda v: {"max_num_batched_tokens": v, "enable_chunked_prefill": True},
        lambda v: {"chunked_prefill_size": v, "max_prefill_tokens": v},
    ),
    "graph_batch": Row(
        "the largest batch in a CUDA graph; SGLang's default would be 256, vLLM's 512",
        lambda v: {"max_cudagraph_capture_size": v}, lambda v: {"cuda_graph_max_bs_decode": v}, "cuda",
    ),
    "eager": Row(
        "no compilation and no CUDA graphs",
        lambda v: {"enforce_eager": v}, lambda v: {"disable_cuda_graph": True} if v else {},
    ),
    "prefix_caching": Row(
        "reuse of prompt tokens", lambda v: {"enable_prefix_caching": v}, lambda v: {"disable_radix_cache": not v}
    ),
    "memory_fraction": Row(
        "of the GPU, for weights, activations and cache",
        lambda v: {"gpu_memory_utilization": v}, lambda v: {"mem_fraction_static": v}, "cuda",
    ),
    "sleep": Row(
        "able to give device memory back",
        lambda v: {"enable_sleep_mode": True} if v else {},
        lambda v: {"enable_memory_saver": True} if v else {},
        "cuda",
    ),
    "kv_dtype": Row("of the cache (auto: as the model)", lambda v: _kv_dtype(v, 0), lambda v: _kv_dtype(v, 1)),
    "attention": Row(
        "backend (auto: the engine's choice)", lambda v: _attention(v, 0), lambda v: _attention(v, 1), "cuda"
    ),
}  # fmt: skip


EXAMPLES = {
    "eager": True,
    "tensor_parallel": 2,
    "sleep": True,
    "kv_dtype": "fp8",
    "attention": "fa3",
}  # values that show what the default does not


def flags(engine: str, options: Flags, device: str) -> Flags:
    """The engine's flags for neutral options on a device (`cpu` or `cuda`), without the native overrides."""
    found: Flags = {}
    for name, row in ROWS.items():
        if row.device in ("", device) and not (name == "graph_batch" and options["eager"]):
            found |= getattr(row, engine)(options[name])
    if options["kv_tokens"]:
        found |= kv_tokens(engine, options["kv_tokens"], device)
    return found


def kv_tokens(engine: str, tokens: int, device: str) -> Flags:
    """Flags for a cache of so many tokens: vLLM counts it in blocks, of which it keeps one empty."""
    if engine == "vllm":
        return {"num_gpu_blocks_override": tokens // BLOCK[device] + 1, "block_size": BLOCK[device]}
    return {"max_total_tokens": tokens}

"""MFU and MBU: the work that a batch needs, counted from a model's config.json, over what the devices could have done.

MFU, model FLOPs utilisation, is PaLM's (arXiv 2204.02311, appendix B): what the model needs, not what an engine did, so
padding, recomputation and rejected drafts never count. PaLM counts training, 6N + 12LHQT a token; here it is the
forward pass, a third of that, and attention is causal: each token counts its own context.

MBU, model bandwidth utilisation, is Databricks' ("LLM Inference Performance Engineering: Best Practices", 2023): bytes
of parameters and KV cache over the time of a step, over peak bandwidth; here summed over a batch's steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.shapes import uneven

Config = Mapping[str, Any]  # a config.json
TYPES = ("llama", "qwen2", "qwen3", "qwen3_moe")
NEEDED = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
)  # fmt: skip
MIXED = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")  # needed of a mixture of experts besides
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class _Sizes:
    """Counts of parameters: a layer's matrices, those that a token goes through, its vectors (norms and biases), the
    output matrix; widths of q, kv."""

    layers: int
    matrices: int
    active: int
    vectors: int
    head: int
    hidden: int
    q: int
    kv: int
    tied: bool


def unsupported(config: Config) -> str:
    """Why the work of this model is not counted here; empty when it is."""
    mixed = config.get("model_type") == "qwen3_moe"
    if not mixed and (experts := [key for key in EXPERTS if config.get(key)]):
        return f"a mixture of experts ({experts[0]})"
    if config.get("model_type") not in TYPES:
        return f"model type {config.get('model_type')}, not {', '.join(TYPES)}"
    if missing := [key for key in NEEDED + MIXED * mixed if not config.get(key)]:
        return f"config.json lacks {', '.join(missing)}"
    if mixed and (reason := uneven(config)):
        return reason
    return next((key for key in ("use_sliding_window", "quantization_config") if config.get(key)), "")


def unread(config: Config) -> str:
    """Why the bytes that this model reads are not counted here; empty when they are."""
    mixed = config.get("model_type") == "qwen3_moe"
    return unsupported(config) or ("a mixture of experts: which of them a step reads is not known" if mixed else "")


def _sizes(config: Config) -> _Sizes:
    """Raises ValueError with `unsupported`'s reason."""
    if reason := unsupported(config):
        raise ValueError(reason)
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    q, kv = heads * head_dim, config["num_key_value_heads"] * head_dim
    kind, biased = config["model_type"], bool(config.get("attention_bias"))
    vectors = 2 * hidden + 2 * head_dim * (kind in ("qwen3", "qwen3_moe"))
    vectors += (q + 2 * kv) * (kind == "qwen2" or biased) + hidden * (kind != "qwen2" and biased)
    vectors += (2 * inner + hidden) * (kind == "llama" and bool(config.get("mlp_bias")))
    attention, experts, active = 2 * hidden * (q + kv), 1, 1
    if kind == "qwen3_moe":
        inner, experts, active = (
            config[key] for key in ("moe_intermediate_size", "num_experts", "num_experts_per_tok")
        )
        attention += hidden * experts  # the router
    return _Sizes(
        layers=config["num_hidden_layers"],
        matrices=attention + 3 * hidden * inner * experts,
        active=attention + 3 * hidden * inner * active,
        vectors=vectors,
        head=config["vocab_size"] * hidden,
        hidden=hidden,
        q=q,
        kv=kv,
        tied=bool(config.get("tie_word_embeddings")),
    )


def parameters(config: Config) -> int:
    """All of a checkpoint's parameters; an embedding that is tied to the output counts once."""
    s = _sizes(config)
    return s.layers * (s.matrices + s.vectors) + s.hidden + s.head * (1 if s.tied else 2)


def matmul_parameters(config: Config) -> int:
    """Parameters that a token multiplies with: no lookup in the embedding, the output matrix even when it is tied, of a
    mixture those experts that it goes through."""
    s = _sizes(config)
    return s.layers * s.active + s.head


def flops(config: Config, prompt_B: npt.ArrayLike, cached_B: npt.ArrayLike, output_B: npt.ArrayLike) -> float:
    """FLOPs of the forward passes that a batch needs; tokens of each request: its prompt, of that from the cache, new.

    A computed token (prompt that is not cached, and every new one but the last, which is not fed back) takes 2 for each
    parameter of the layers' matrices (of a mixture, the router's and its own experts') and 4 * layers * q width for
    each position it attends to, itself included. The output matrix counts only where a token is sampled: engines take
    no logits of the rest of a prompt.
    """
    s = _sizes(config)
    prompt, cached, output = (np.asarray(count, np.int64) for count in (prompt_B, cached_B, output_B))
    end = prompt + np.maximum(output - 1, 0)
    computed, contexts = int((end - cached).sum()), int((_triangle(end) - _triangle(cached)).sum())
    return 2.0 * s.layers * s.active * computed + 2.0 * s.head * int(output.sum()) + 4.0 * s.layers * s.q * contexts


def training_flops(
    config: Config, prompt_B: npt.ArrayLike, output_B: npt.ArrayLike, *, adapter: bool = False, critic: bool = False
) -> float:
    """FLOPs of the forward and backward passes over a batch, recomputation not counted: three times the forward pass,
    twice where an adapter alone learns (its own few left out). `critic`: a second model of these layers learns too,
    with one number in place of the output matrix."""
    forward, s = flops(config, prompt_B, 0 * np.asarray(prompt_B), output_B), _sizes(config)
    beside = forward - 2.0 * s.head * int(np.asarray(output_B, np.int64).sum())
    return (2 if adapter else 3) * forward + (3 * beside if critic else 0.0)


def bytes_read(
    config: Config, prompt_B: npt.ArrayLike, output_B: npt.ArrayLike, dtype_bytes: float, steps: int | None = None
) -> float:
    """Bytes that generation must read from device memory, all devices of one engine together: a lower bound.

    The weights once a step (of the embedding rows alone, which do not count), and for each new token that is fed back
    its context's keys and values. `steps` is the longest output unless the engine says how many it took: prompts
    computed in pieces and requests that start late add steps, drafts save some. Prefill's reads of the cache,
    activations and all writes are left out. An engine that reads a prefix once for many requests may need less.
    Raises ValueError with `unread`'s reason.
    """
    if reason := unread(config):
        raise ValueError(reason)
    s = _sizes(config)
    prompt, output = np.asarray(prompt_B, np.int64), np.asarray(output_B, np.int64)
    contexts = int((_triangle(prompt + np.maximum(output - 1, 0)) - _triangle(prompt)).sum())
    weights = s.layers * (s.matrices + s.vectors) + s.hidden + s.head
    steps = int(output.max(initial=0)) if steps is None else steps
    return dtype_bytes * (float(steps) * weights + 2.0 * s.layers * s.kv * contexts)


def mfu(flops: float, seconds: float, tflop_s: float, gpus: int = 1) -> float:
    """The share of the devices' FLOPs; `tflop_s` is one device's rate, 10^12 a second: its peak, or what it reached."""
    return flops / (seconds * gpus * tflop_s * 1e12)


def mbu(bytes_read: float, seconds: float, gb_s: float, gpus: int = 1) -> float:
    """The share of the devices' bandwidth; `gb_s` is one device's, 10^9 bytes a second."""
    return bytes_read / (seconds * gpus * gb_s * 1e9)


def _triangle(n: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """1 + 2 + ... + n."""
    return n * (n + 1) // 2

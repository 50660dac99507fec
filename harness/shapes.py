"""Shapes of models: their dimensions, the `config.json` that states them, and their checkpoint's tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Named = tuple[str, tuple[int, ...]]  # a tensor's name and its shape

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}


@dataclass(frozen=True)
class Shape:
    """A causal LM's dimensions, as its `config.json` states them. With `experts` every layer is a mixture of them."""

    model_type: str  # one of ARCHITECTURES
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int  # of a dense layer
    vocab: int
    tied: bool
    head_dim: int = 0  # 0: hidden // heads
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    context: int = 32768
    experts: int = 0
    active: int = 0  # experts that a token goes through
    expert_inner: int = 0  # an expert's intermediate size
    weights: bool = False  # made here with random weights, else for an engine's dummy weights
    dtype: str = "bfloat16"


def tiny(model_type: str, **changes: Any) -> Shape:
    """About 4 million parameters: enough to behave like a model, small enough for a CPU."""
    fixed: dict[str, Any] = {"tied": False, "head_dim": 64, "weights": True, "dtype": "float32"}
    return Shape(model_type, 256, 4, 4, 2, 768, 2048, **fixed, **changes)


def llama3(hidden: int, layers: int, heads: int, intermediate: int) -> Shape:
    return Shape(
        "llama", hidden, layers, heads, 8, intermediate, 128256,
        tied=False, rope_theta=5e5, norm_eps=1e-5, context=8192,
    )  # fmt: skip


SHAPES = {
    "tiny-llama": tiny("llama"),
    "tiny-qwen2": tiny("qwen2"),
    "tiny-qwen3": tiny("qwen3"),
    # A vocabulary of as many tokens as the tasks of trainers/ have symbols: it learns on a CPU.
    "tiny-rl": Shape(
        "qwen3", 128, 2, 4, 4, 256, 32, tied=False, head_dim=32, weights=True, dtype="float32"
    ),
    "tiny-moe": tiny("qwen3_moe", experts=8, active=2, expert_inner=128),
    # Dimensions from the configurations published with the models.
    "Qwen2.5-0.5B": Shape("qwen2", 896, 24, 14, 2, 4864, 151936, tied=True),
    "Qwen2.5-1.5B": Shape("qwen2", 1536, 28, 12, 2, 8960, 151936, tied=True),
    "Qwen2.5-7B": Shape("qwen2", 3584, 28, 28, 4, 18944, 152064, tied=False),
    "Qwen2.5-72B": Shape("qwen2", 8192, 80, 64, 8, 29568, 152064, tied=False),
    "Llama-3-8B": llama3(4096, 32, 32, 14336),
    "Llama-3-70B": llama3(8192, 80, 64, 28672),
    "Qwen3-30B-A3B": Shape(
        "qwen3_moe", 2048, 48, 32, 4, 6144, 151936, tied=False, head_dim=128, context=40960, experts=128, active=8,
        expert_inner=768,
    ),
}  # fmt: skip


def of_config(found: Mapping[str, Any]) -> Shape:
    """The shape that a `config.json` states. Raises ValueError, with what it is, for one that is not known here."""
    kind = found.get("model_type")
    if kind not in ARCHITECTURES:
        raise ValueError(f"model type {kind}, not {', '.join(ARCHITECTURES)}")
    if reason := uneven(found):
        raise ValueError(reason)
    mixed = kind == "qwen3_moe"
    return Shape(
        kind, found["hidden_size"], found["num_hidden_layers"], found["num_attention_heads"],
        found["num_key_value_heads"], found["intermediate_size"], found["vocab_size"],
        tied=bool(found.get("tie_word_embeddings")), head_dim=found.get("head_dim") or 0,
        experts=found["num_experts"] if mixed else 0, active=found["num_experts_per_tok"] if mixed else 0,
        expert_inner=found["moe_intermediate_size"] if mixed else 0,
    )  # fmt: skip


def uneven(found: Mapping[str, Any]) -> str:
    """Why not every layer of a mixture of experts is experts alone; empty when it is."""
    if found.get("decoder_sparse_step", 1) != 1 or found.get("mlp_only_layers"):
        return "a mixture of experts with dense layers between"
    return "a mixture of experts with a shared one" if found.get("shared_expert_intermediate_size") else ""


def configuration(shape: Shape) -> dict[str, object]:
    """What `config.json` says of it; token ids are those of the tokenizer in harness/models.py."""
    return {
        "architectures": [ARCHITECTURES[shape.model_type]],
        "model_type": shape.model_type,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim or shape.hidden // shape.heads,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "rope_theta": shape.rope_theta,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "bos_token_id": 256 if shape.vocab > 257 else 0,
        "eos_token_id": 257 if shape.vocab > 257 else 1,
        "use_sliding_window": False,
        "torch_dtype": shape.dtype,
        **(_mixture(shape) if shape.experts else {}),
    }


def _mixture(shape: Shape) -> dict[str, object]:
    return {
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.active,
        "moe_intermediate_size": shape.expert_inner,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def tensors(shape: Shape) -> Iterator[Named]:
    """Names and shapes of a checkpoint's tensors, as Hugging Face has them. What an engine fuses into one parameter
    (q, k and v; gate and up; those of all experts) stands next to each other, weights before biases."""
    head = shape.head_dim or shape.hidden // shape.heads
    q, kv, hidden = shape.heads * head, shape.kv_heads * head, shape.hidden
    yield "model.embed_tokens.weight", (shape.vocab, hidden)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        yield f"{at}input_layernorm.weight", (hidden,)
        yield f"{at}post_attention_layernorm.weight", (hidden,)
        for part, out in (("q", q), ("k", kv), ("v", kv)):
            yield f"{at}self_attn.{part}_proj.weight", (out, hidden)
        if shape.model_type == "qwen2":
            for part, out in (("q", q), ("k", kv), ("v", kv)):
                yield f"{at}self_attn.{part}_proj.bias", (out,)
        yield f"{at}self_attn.o_proj.weight", (hidden, q)
        if shape.model_type in ("qwen3", "qwen3_moe"):
            yield f"{at}self_attn.q_norm.weight", (head,)
            yield f"{at}self_attn.k_norm.weight", (head,)
        yield from _experts(f"{at}mlp.", shape) if shape.experts else _mlp(f"{at}mlp.", hidden, shape.intermediate)
    yield "model.norm.weight", (hidden,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, hidden)


def _mlp(at: str, hidden: int, inner: int) -> Iterator[Named]:
    yield f"{at}gate_proj.weight", (inner, hidden)
    yield f"{at}up_proj.weight", (inner, hidden)
    yield f"{at}down_proj.weight", (hidden, inner)


def _experts(at: str, shape: Shape) -> Iterator[Named]:
    """Both engines hold gate and up of all experts in one parameter (experts, 2 * inner, hidden), down in another."""
    yield f"{at}gate.weight", (shape.experts, shape.hidden)
    of_each = [list(_mlp(f"{at}experts.{i}.", shape.hidden, shape.expert_inner)) for i in range(shape.experts)]
    for gate, up, _ in of_each:
        yield from (gate, up)
    yield from (down for *_, down in of_each)

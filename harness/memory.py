"""How much GPU memory a model takes: its weights, its KV cache, and what training needs. Bytes, on each GPU.

Lower bounds, but `activations` and `logits`, which are estimates: what libraries, CUDA graphs and fragmentation take
comes on top (about 2 GiB on an H100 with vLLM 0.26 and SGLang 0.5, measured).
"""

import math
import re
from collections.abc import Iterable
from pathlib import PurePath

from harness import models
from harness.errors import UserError
from harness.shapes import SHAPES, Named, Shape, of_config, tensors

GIB = 1 << 30
DTYPE = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}
# Bytes a parameter that learns, with Adam: 16, as in Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, section 3.1
# (there 2 + 2 + 12); FSDP2 sums gradients in float32 and makes a layer's weights from the masters when it needs them.
TRAINED = {"masters": 4, "moments": 8, "gradients": 4}
SENT = 2  # and of rollbench's trainer the weights that are sent, in bfloat16 (docs/model.md)


def ours(model: str) -> str | None:
    """The row of SHAPES for a model, also by its hub's name (`Qwen/Qwen2.5-7B-Instruct`); None where there is none."""
    name = re.sub("-(Instruct|Base|Chat)$", "", PurePath(model).name).removeprefix("Meta-")
    return next((known for known in (model, name) if known in SHAPES), None)


def shape(model: str) -> Shape | None:
    """Dimensions of a model: one of ours, or a folder's. None for what is not known on this machine."""
    if name := ours(model):
        return SHAPES[name]
    try:
        return of_config(models.config(model))
    except (UserError, ValueError, KeyError):
        return None


def parameters(named: Iterable[Named]) -> int:
    """Of a checkpoint's tensors; an embedding that is tied to the output counts once."""
    return sum(math.prod(size) for _, size in named)


def weights(shape: Shape, gpus: int = 1, dtype: str = "bfloat16") -> float:
    """Of a model that `gpus` share by tensor or pipeline parallel (norms, which each holds, are left out)."""
    return parameters(tensors(shape)) * DTYPE[dtype] / gpus


def kv_token(shape: Shape, tensor: int = 1, pipeline: int = 1, dtype: str = "bfloat16") -> float:
    """A token's keys and values in a GPU's layers, heads shared by tensor parallel: fewer heads than GPUs stand twice.

    Kwon et al. 2023, PagedAttention, arXiv:2309.06180, section 3 (2 · hidden · layers · 2 bytes), with grouped heads.
    """
    heads, head = max(shape.kv_heads / tensor, 1.0), shape.head_dim or shape.hidden // shape.heads
    return 2 * shape.layers / pipeline * heads * head * DTYPE[dtype]


def kv_tokens(
    shape: Shape, total: float, fraction: float, tensor: int = 1, pipeline: int = 1, dtype: str = "bfloat16"
) -> float:
    """Tokens that the cache holds at most, in what `fraction` of a GPU's `total` bytes leaves beside the weights (in
    bfloat16; `dtype` is the cache's); below 0 where the weights alone do not fit."""
    room = fraction * total - weights(shape, tensor * pipeline)
    return room / kv_token(shape, tensor, pipeline, dtype)


def training(
    count: int, gpus: int = 1, *, sent: int = SENT, adapter: int = 0, reference: bool = False, critic: bool = False
) -> dict[str, float]:
    """Parts of a trainer of `count` parameters, fully sharded over `gpus`, without activations.

    sent: bytes a parameter of weights beside the masters (rollbench 2; SkyRL on FSDP2 0). adapter: parameters of LoRA,
    which alone learn; the base is then `max(sent, 2)` bytes. reference: a frozen copy (none is needed with an adapter).
    critic: a second network that learns.
    """
    learns = adapter or count
    parts = {name: float(size * learns) for name, size in TRAINED.items()}
    parts["weights"] = float((max(sent, 2) if adapter else sent) * count)
    parts["reference"] = float(2 * count * (reference and not adapter))
    parts["critic"] = float((sum(TRAINED.values()) + sent) * count * critic)
    return {name: size / gpus for name, size in parts.items()}


def activations(shape: Shape, tokens: int, checkpointing: bool = True, dtype: str = "bfloat16") -> float:
    """What a micro-batch of so many tokens keeps for its backward pass, an estimate: with checkpointing each layer's
    input and the inside of one layer.

    Korthikanti et al. 2022, arXiv:2205.05198, sections 4 and 5, for layers with gated inner matrices, fused attention
    and no dropout: of each token 6 vectors of the hidden width, 2 of queries, 2 of keys, 4 of the inner width.
    """
    head = shape.head_dim or shape.hidden // shape.heads
    inner = shape.active * shape.expert_inner if shape.experts else shape.intermediate
    inside = 6 * shape.hidden + 2 * (shape.heads + shape.kv_heads) * head + 4 * inner
    kept = shape.layers * shape.hidden + inside if checkpointing else shape.layers * inside
    return float(tokens * kept * DTYPE[dtype])


def logits(shape: Shape, chunk: int = 1024, dtype: str = "bfloat16", fused: bool = False) -> float:
    """Of one chunk of tokens in the loss of trainers/logprobs.py, an estimate: two float32 copies and one in `dtype`,
    `fused` two in `dtype`, and the output matrix's gradient summed in float32."""
    copies = 2 * DTYPE[dtype] if fused else 8 + DTYPE[dtype]
    return float(shape.vocab * (chunk * copies + 4 * shape.hidden))

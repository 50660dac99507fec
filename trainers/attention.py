"""Attention over packed sequences, for models of transformers: the varlen kernel of torch on a GPU, else
block-diagonal.

`VARLEN` is torch's own FlashAttention (`torch.nn.attention.varlen`, torch 2.10 and later; no package to install), which
skips what a mask would only hide. Without it `flex_attention` on a GPU and `sdpa` with a mask elsewhere do the same
work from the positions alone: transformers finds in them where sequences begin.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

VARLEN = "trainers_varlen"  # the name under which transformers knows it; one that has no mask function gets no mask
STEP = 256  # lengths and counts rounded up to it: a compiled model is compiled anew for each that it has not seen


def choose(device: torch.device) -> str:
    """The fastest way that there is on a device, by its name in transformers."""
    if device.type != "cuda":
        return "sdpa"
    return VARLEN if _kernel() else "flex_attention"


def register() -> None:
    """Make it known to transformers. Raises RuntimeError where this torch has no such kernel."""
    from transformers import AttentionInterface

    if (kernel := _kernel()) is None:
        raise RuntimeError(
            "this torch has no torch.nn.attention.varlen: load the model with attention='flex_attention'"
        )
    AttentionInterface.register(VARLEN, attention(kernel))


def bounds(length_B: Tensor, total: int) -> dict[str, Any]:
    """What the varlen kernel is told of the sequences of a packed row of `total` tokens, in transformers' names. Empty
    sequences behind the last round their number up."""
    count = -(-(len(length_B) + 1) // STEP) * STEP + 1
    end_B = torch.full((count,), total, dtype=torch.int32, device=length_B.device)
    end_B[0] = 0
    end_B[1 : len(length_B) + 1] = length_B.cumsum(0)
    longest = max(int(length_B.max()), total - int(length_B.sum()))
    longest = -(-longest // STEP) * STEP
    return {"cu_seq_lens_q": end_B, "cu_seq_lens_k": end_B, "max_length_q": longest, "max_length_k": longest}


def attention(kernel: Callable[..., Any]) -> Callable[..., tuple[Tensor, None]]:
    """Attention with a varlen kernel, as transformers calls it. What the kernel takes differs by torch's version."""
    known = inspect.signature(kernel).parameters
    windows, grouped = "window_size" in known, {"enable_gqa": True} if "enable_gqa" in known else {}

    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        cu_seq_lens_q: Tensor | None = None,
        max_length_q: int = 0,
        **others: Any,
    ) -> tuple[Tensor, None]:
        """query: (1, heads, tokens, head size), key and value: (1, key-value heads, tokens, head size); answers (1,
        tokens, heads, head size)."""
        if cu_seq_lens_q is None or query.shape[0] != 1 or dropout:
            raise ValueError("this attention is for one packed row without dropout, with the bounds of its sequences")
        if sliding_window and not windows:
            raise ValueError(
                "this torch's varlen attention has no sliding window: load the model with attention='sdpa'"
            )
        left = sliding_window - 1 if sliding_window else -1
        causal: dict[str, Any] = {"window_size": (left, 0)} if windows else {"is_causal": True}
        found = kernel(
            *(tensor[0].transpose(0, 1) for tensor in (query, key, value)),
            cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling, **causal, **grouped,
        )  # fmt: skip
        return found[None], None

    return attend


def _kernel() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn

"""Log-probabilities of tokens, and the entropy at each, from hidden states and the LM head.

The logits of all tokens, N times the vocabulary, never stand in memory: tokens go through in chunks, and the backward
pass computes each chunk's logits again. The head's gradient is summed over chunks in float32, whatever its own type.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 1024  # tokens whose logits stand at once: with a vocabulary of 152,000 about 0.6 GB for each float32 copy
IMPOSSIBLE = -1e4  # stands for the log-probability of a token whose logit is minus infinity, in 0 * log 0


def before(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The hidden state in front of each own token, which predicts it: shape (N, D), in the order of `mask_BT`.

    Takes packed rows too (B = 1). The first token of a sequence is a prompt's, so nothing reaches over a boundary.
    """
    return hidden_BTD[:, :-1][mask_BT[:, 1:]]


def spread(value_N: Tensor, mask_BT: Tensor) -> Tensor:
    """Values of the own tokens at their places, 0 elsewhere."""
    return value_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, value_N)


def logprobs(
    hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, *,
    temperature: float = 1.0, chunk: int = CHUNK, fused: bool = False,
) -> Tensor:  # fmt: skip
    """log softmax(hidden @ head.T / temperature) at each token's `target_N`, shape N, float32 (float64 stays). `fused`:
    what is done to a chunk's logits is compiled into few passes over them."""
    return _scores(hidden_ND, head_VD, target_N, temperature, chunk, fused, entropy=False)[0]


def logprobs_and_entropy(
    hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, *,
    temperature: float = 1.0, chunk: int = CHUNK, fused: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`logprobs`, and the entropy in nats of the distribution that each token was drawn from; both differentiable."""
    return _scores(hidden_ND, head_VD, target_N, temperature, chunk, fused, entropy=True)


def _scores(
    hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, temperature: float, chunk: int, fused: bool, *, entropy: bool
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor]
    found = _Scores.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head_VD, target_N, temperature, chunk, fused, entropy
    )
    return found


def _scaled(logits_CV: Tensor, temperature: float) -> Tensor:
    """Of one chunk, shape (C, V), in at least float32."""
    logits_CV = logits_CV if logits_CV.dtype == torch.float64 else logits_CV.float()
    return logits_CV if temperature == 1 else logits_CV.div_(temperature)


def _entropy(log_p_CV: Tensor, p_CV: Tensor) -> Tensor:
    entropy_C: Tensor = torch.linalg.vecdot(p_CV, log_p_CV.clamp_(min=IMPOSSIBLE)).neg_()
    return entropy_C


def _score(logits_CV: Tensor, target_C: Tensor, temperature: float, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """One chunk's log-probabilities, the logarithm of the sum that they were divided by, and entropies (none where not
    asked for); overwrites the logits."""
    logits_CV = _scaled(logits_CV, temperature)
    total_C = logits_CV.logsumexp(-1)
    logp_C = logits_CV.gather(1, target_C[:, None])[:, 0] - total_C
    if not entropy:
        return logp_C, total_C, logp_C[:0]
    log_p_CV = logits_CV.sub_(total_C[:, None])
    return logp_C, total_C, _entropy(log_p_CV, log_p_CV.exp())


def _slope(
    logits_CV: Tensor,
    target_C: Tensor,
    total_C: Tensor,
    temperature: float,
    logp_grad_C: Tensor,
    entropy_grad_C: Tensor | None,
) -> Tensor:
    """The loss's gradient by one chunk's logits, given that by log-probabilities and by entropies; overwrites them.

    d logp / d z = onehot - p; d entropy / d z = -p (log p + entropy).
    """
    dtype = logits_CV.dtype
    log_p_CV = _scaled(logits_CV, temperature).sub_(total_C[:, None])
    p_CV = log_p_CV.exp()
    if entropy_grad_C is None:
        slope_CV = p_CV.mul_(-logp_grad_C[:, None])
    else:
        entropy_C = _entropy(log_p_CV, p_CV)
        scale_CV = log_p_CV.add_(entropy_C[:, None]).mul_(entropy_grad_C[:, None]).add_(logp_grad_C[:, None])
        slope_CV = p_CV.mul_(scale_CV).neg_()
    own_C1 = (slope_CV.gather(1, target_C[:, None]) + logp_grad_C[:, None]) / temperature
    return slope_CV.div_(temperature).to(dtype).scatter_(1, target_C[:, None], own_C1.to(dtype))


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, temperature: float, chunk: int, fused: bool,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        score = _compiled(_score) if fused else _score
        found = [
            score(hidden_CD @ head_VD.T, target_C, temperature, entropy)
            for hidden_CD, target_C in zip(torch.split(hidden_ND, chunk), torch.split(target_N, chunk), strict=True)
        ]
        logp_N, total_N, entropy_N = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden_ND, head_VD, target_N, total_N)
        ctx.temperature, ctx.chunk, ctx.slope = temperature, chunk, _compiled(_slope) if fused else _slope
        return logp_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logp_grad_N: Tensor | None, entropy_grad_N: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_ND, head_VD, target_N, total_N = ctx.saved_tensors
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        sums = torch.promote_types(head_VD.dtype, torch.float32)
        if logp_grad_N is None:
            logp_grad_N = torch.zeros_like(target_N, dtype=sums)
        hidden_grad_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        head_grad_VD = torch.zeros_like(head_VD, dtype=sums) if needs_head else None
        for start in range(0, len(target_N), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            entropy_grad_C = None if entropy_grad_N is None else entropy_grad_N[part]
            slope_CV = ctx.slope(
                hidden_ND[part] @ head_VD.T, target_N[part], total_N[part], ctx.temperature, logp_grad_N[part],
                entropy_grad_C,
            )  # fmt: skip
            if hidden_grad_ND is not None:
                hidden_grad_ND[part] = slope_CV @ head_VD
            if head_grad_VD is not None:
                head_grad_VD += slope_CV.T @ hidden_ND[part]
            del slope_CV  # before the next chunk's is made
        head_grad = None if head_grad_VD is None else head_grad_VD.to(head_VD.dtype)
        return hidden_grad_ND, head_grad, None, None, None, None, None

"""Log-probabilities of tokens, and the entropy at each, from hidden states and the LM head.

The logits of all tokens, N times the vocabulary, never stand in memory: tokens go through in chunks, and the backward
pass computes each chunk's logits again. The head's gradient is summed over chunks in float32, whatever its own type.
"""

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
    hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, *, temperature: float = 1.0, chunk: int = CHUNK
) -> Tensor:
    """log softmax(hidden @ head.T / temperature) at each token's `target_N`, shape N, float32 (float64 stays)."""
    return _scores(hidden_ND, head_VD, target_N, temperature, chunk, entropy=False)[0]


def logprobs_and_entropy(
    hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, *, temperature: float = 1.0, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """`logprobs`, and the entropy in nats of the distribution that each token was drawn from; both differentiable."""
    return _scores(hidden_ND, head_VD, target_N, temperature, chunk, entropy=True)


def _scores(
    hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, temperature: float, chunk: int, *, entropy: bool
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor]
    found = _Scores.apply(hidden_ND, head_VD, target_N, temperature, chunk, entropy)  # type: ignore[no-untyped-call]
    return found


def _logits(hidden_CD: Tensor, head_VD: Tensor, temperature: float) -> Tensor:
    """Of one chunk, shape (C, V), in at least float32."""
    logits_CV: Tensor = hidden_CD @ head_VD.T
    logits_CV = logits_CV if logits_CV.dtype == torch.float64 else logits_CV.float()
    return logits_CV if temperature == 1 else logits_CV.div_(temperature)


def _entropy(log_p_CV: Tensor, p_CV: Tensor) -> Tensor:
    entropy_C: Tensor = torch.linalg.vecdot(p_CV, log_p_CV.clamp_(min=IMPOSSIBLE)).neg_()
    return entropy_C


def _score(logits_CV: Tensor, target_C: Tensor, entropy: bool) -> tuple[Tensor, Tensor]:
    """One chunk's log-probabilities and entropies (none where not asked for); overwrites the logits."""
    total_C = logits_CV.logsumexp(-1)
    logp_C = logits_CV.gather(1, target_C[:, None])[:, 0] - total_C
    if not entropy:
        return logp_C, logp_C[:0]
    log_p_CV = logits_CV.sub_(total_C[:, None])
    return logp_C, _entropy(log_p_CV, log_p_CV.exp())


def _slope(logits_CV: Tensor, target_C: Tensor, logp_grad_C: Tensor, entropy_grad_C: Tensor | None) -> Tensor:
    """The loss's gradient by one chunk's logits, given that by log-probabilities and by entropies; overwrites them.

    d logp / d z = onehot - p; d entropy / d z = -p (log p + entropy).
    """
    log_p_CV = logits_CV.sub_(logits_CV.logsumexp(-1, keepdim=True))
    p_CV = log_p_CV.exp()
    if entropy_grad_C is None:
        slope_CV = p_CV.mul_(-logp_grad_C[:, None])
    else:
        entropy_C = _entropy(log_p_CV, p_CV)
        scale_CV = log_p_CV.add_(entropy_C[:, None]).mul_(entropy_grad_C[:, None]).add_(logp_grad_C[:, None])
        slope_CV = p_CV.mul_(scale_CV).neg_()
    return slope_CV.scatter_add_(1, target_C[:, None], logp_grad_C[:, None])


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, temperature: float, chunk: int, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden_ND, head_VD, target_N)
        ctx.temperature, ctx.chunk = temperature, chunk
        found = [
            _score(_logits(hidden_CD, head_VD, temperature), target_C, entropy)
            for hidden_CD, target_C in zip(torch.split(hidden_ND, chunk), torch.split(target_N, chunk), strict=True)
        ]
        logp, entropies = zip(*found, strict=True)
        return torch.cat(logp), torch.cat(entropies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logp_grad_N: Tensor | None, entropy_grad_N: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_ND, head_VD, target_N = ctx.saved_tensors
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        sums = torch.promote_types(head_VD.dtype, torch.float32)
        if logp_grad_N is None:
            logp_grad_N = torch.zeros_like(target_N, dtype=sums)
        hidden_grad_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        head_grad_VD = torch.zeros_like(head_VD, dtype=sums) if needs_head else None
        for start in range(0, len(target_N), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            entropy_grad_C = None if entropy_grad_N is None else entropy_grad_N[part]
            logits_CV = _logits(hidden_ND[part], head_VD, ctx.temperature)
            slope_CV = _slope(logits_CV, target_N[part], logp_grad_N[part], entropy_grad_C)
            slope_CV = slope_CV.div_(ctx.temperature).to(head_VD.dtype)
            if hidden_grad_ND is not None:
                hidden_grad_ND[part] = slope_CV @ head_VD
            if head_grad_VD is not None:
                head_grad_VD += slope_CV.T @ hidden_ND[part]
            del logits_CV, slope_CV  # before the next chunk's are made
        return hidden_grad_ND, None if head_grad_VD is None else head_grad_VD.to(head_VD.dtype), None, None, None, None

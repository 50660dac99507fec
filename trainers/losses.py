"""Losses over masked tensors: pure functions, differentiable in what the policy and the critic compute now.

Every loss is a sum over tokens of a value times a weight that was fixed over the whole batch. So the losses of
micro-batches, of ranks and of packed rows add up to that of the batch, with no step left to divide by. What stands off
the mask, NaN and infinity included, changes neither a loss nor a gradient.
"""

import torch
from torch import Tensor

LARGEST = 20.0  # of a log-ratio, so that its exponential stays finite


def own(value_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """0 off the mask, whatever was there."""
    return value_BT.masked_fill(~mask_BT, 0)


def token_ratio(new_BT: Tensor, old_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """log(new / old) of each token, shape BT, within LARGEST. PPO, GRPO."""
    return (own(new_BT, mask_BT) - own(old_BT, mask_BT)).clamp(-LARGEST, LARGEST)


def sequence_ratio(new_BT: Tensor, old_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """log(new / old) of the whole output, one action, at each of its tokens: shape BT, within LARGEST. RLOO."""
    total_B = (own(new_BT, mask_BT) - own(old_BT, mask_BT)).sum(-1, keepdim=True)
    return own(total_B.clamp(-LARGEST, LARGEST).expand_as(mask_BT), mask_BT)


RATIOS = {"token": token_ratio, "sequence": sequence_ratio}


def token_weights(mask_BT: Tensor, limit: int) -> Tensor:
    """Every token of the batch counts the same. DAPO, PPO."""
    return mask_BT.float() / _count(mask_BT)


def sequence_weights(mask_BT: Tensor, limit: int) -> Tensor:
    """Every sequence counts the same, its tokens share that; one without tokens counts as zero. GRPO."""
    _count(mask_BT)
    return mask_BT.float() / mask_BT.sum(-1, keepdim=True).clamp(min=1) / len(mask_BT)


def constant_weights(mask_BT: Tensor, limit: int) -> Tensor:
    """Every token counts 1 / (B * limit), whatever the lengths. Dr. GRPO (arXiv:2503.20783)."""
    _count(mask_BT)
    return mask_BT.float() / (len(mask_BT) * limit)


WEIGHTS = {"token": token_weights, "sequence": sequence_weights, "constant": constant_weights}


def _count(mask_BT: Tensor) -> Tensor:
    if not (count := mask_BT.sum()):
        raise ValueError(
            "no token to learn from: every sequence was cut off and left out, so raise the limit of tokens"
        )
    return count


def clipped(ratio_BT: Tensor, advantage_BT: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    """-min(ratio * advantage, clip(ratio, 1 - low, 1 + high) * advantage) of each token.

    ratio_BT: new / old, not its logarithm. Schulman et al. 2017, PPO, arXiv:1707.06347; `high` above `low` is DAPO's
    clip-higher (Yu et al. 2025, arXiv:2503.14476).
    """
    return -torch.minimum(ratio_BT * advantage_BT, ratio_BT.clamp(1 - low, 1 + high) * advantage_BT)


def outside(ratio_BT: Tensor, advantage_BT: Tensor, low: float, high: float) -> Tensor:
    """1 where `clipped` takes a token's gradient away, else 0."""
    above_BT, below_BT = (ratio_BT > 1 + high) & (advantage_BT > 0), (ratio_BT < 1 - low) & (advantage_BT < 0)
    return (above_BT | below_BT).to(ratio_BT)


def correction(log_ratio_BT: Tensor, cap: float) -> Tensor:
    """min(trainer / rollout engine, cap) of probabilities, a constant that a token's policy loss is multiplied by.

    log_ratio_BT: of the trainer's old log-probabilities over the engine's. Truncated importance sampling, after
    Yao et al. 2025, Your Efficient RL Framework Secretly Brings You Off-Policy RL Training.
    """
    return log_ratio_BT.detach().exp().clamp(max=cap)


def k1(log_ratio_BT: Tensor) -> Tensor:
    """log(policy / reference): unbiased, may be negative. As a loss its gradient is 0 on average: only for rewards.

    All three: Schulman 2020, Approximating KL Divergence, joschu.net/blog/kl-approx.html, from samples of the policy.
    """
    return log_ratio_BT


def k2(log_ratio_BT: Tensor) -> Tensor:
    """Half its square: biased, small variance; its gradient is that of the KL on the policy's own samples."""
    return log_ratio_BT.square() / 2


def k3(log_ratio_BT: Tensor) -> Tensor:
    """reference / policy - 1 - log(reference / policy): unbiased, never negative. GRPO's (arXiv:2402.03300)."""
    return (-log_ratio_BT).exp() - 1 + log_ratio_BT


KL = {"k1": k1, "k2": k2, "k3": k3}


def value_loss(value_BT: Tensor, old_BT: Tensor, return_BT: Tensor, clip: float = 0.2) -> Tensor:
    """Half the squared error of each token's value, or of the value within `clip` of the old one where that is more.

    The clip is that of the authors' PPO code; Engstrom et al. 2020, Implementation Matters, arXiv:2005.12729.
    """
    near_BT = old_BT + (value_BT - old_BT).clamp(-clip, clip)
    return torch.maximum((value_BT - return_BT).square(), (near_BT - return_BT).square()) / 2


def mismatch(old_BT: Tensor, sampled_BT: Tensor, mask_BT: Tensor) -> dict[str, float]:
    """How far the engine's log-probabilities of its own samples are from the trainer's of the same tokens.

    `mean` and `max` of the absolute difference; `kl` of the engine from the trainer by k3 (engine's samples), both in
    nats, of one token.
    """
    log_ratio_N = (sampled_BT - old_BT)[mask_BT].double()
    return {
        "mean": float(log_ratio_N.abs().mean()),
        "max": float(log_ratio_N.abs().max()),
        "kl": float(k3(log_ratio_N.clamp(-LARGEST, LARGEST)).mean()),
    }

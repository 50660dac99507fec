"""Advantages: how much better a rollout, or a token of it, was than expected. Pure functions, gradients not needed.

Sequence-level estimators take reward_B and group_B (samples of one prompt share a number; groups may differ in size and
stand in any order) and give advantage_B; token-level ones give advantage_BT, 0 off the mask. Rewards are moved by a
constant before they are summed, so that equal ones give exact zeros.
"""

import torch
from torch import Tensor

from trainers.batch import numbered

EPSILON = 1e-4  # added to a standard deviation, in units of the reward


def grpo(reward_B: Tensor, group_B: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Reward less its group's mean, over its group's standard deviation (of the sample, n - 1) plus `epsilon`.

    Shao et al. 2024, DeepSeekMath, arXiv:2402.03300. Raises ValueError for a group of one.
    """
    centred_B, count_B, group_B = _centred(reward_B, group_B, "grpo")
    square_B = _sums(centred_B.square(), group_B)[group_B]
    return centred_B / ((square_B / (count_B - 1)).sqrt() + epsilon)


def dr_grpo(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """Reward less its group's mean: without the standard deviation, which gives easy and hard prompts more weight.

    Liu et al. 2025, Understanding R1-Zero-Like Training, arXiv:2503.20783. Raises ValueError for a group of one.
    """
    return _centred(reward_B, group_B, "dr_grpo")[0]


def rloo(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """Reward less the mean of the others in its group: n / (n - 1) of `dr_grpo`.

    Kool et al. 2019, Buy 4 REINFORCE Samples, Get a Baseline for Free; Ahmadian et al. 2024, Back to Basics,
    arXiv:2402.14740. Raises ValueError for a group of one.
    """
    centred_B, count_B, _ = _centred(reward_B, group_B, "rloo")
    return centred_B * count_B / (count_B - 1)


def gae(
    reward_BT: Tensor, value_BT: Tensor, mask_BT: Tensor, discount: float = 1.0, trace: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates, and the returns (advantage plus value) that the critic is to learn.

    value_BT: the critic's, of the state before each token. trace: lambda. A step goes from one own token to the next,
    over what others said between, and behind the last own token all is over: its value is 0, also where the output was
    cut off. Schulman et al. 2015, arXiv:1506.02438.
    """
    advantage_BT = torch.zeros_like(value_BT)
    value_BT = value_BT.detach().masked_fill(~mask_BT, 0)
    later_B = torch.zeros_like(value_BT[:, 0])  # the advantage of the next own token
    next_B = torch.zeros_like(later_B)  # its value
    for t in reversed(range(value_BT.shape[1])):
        mask_B = mask_BT[:, t]
        found_B = reward_BT[:, t] + discount * next_B - value_BT[:, t] + discount * trace * later_B
        later_B = torch.where(mask_B, found_B, later_B)
        next_B = torch.where(mask_B, value_BT[:, t], next_B)
        advantage_BT[:, t] = later_B.masked_fill(~mask_B, 0)
    return advantage_BT, advantage_BT + value_BT


def returns(reward_BT: Tensor, mask_BT: Tensor, discount: float = 1.0) -> Tensor:
    """The discounted sum of rewards from each own token on (REINFORCE: Williams 1992)."""
    zeros_BT = torch.zeros_like(reward_BT)
    return gae(reward_BT, zeros_BT, mask_BT, discount, trace=1.0)[0]


def reinforce_pp(reward_BT: Tensor, mask_BT: Tensor, discount: float = 1.0, epsilon: float = EPSILON) -> Tensor:
    """Returns of each token, made of mean 0 and deviation 1 over all tokens of the batch: no critic, no groups.

    Hu et al. 2025, REINFORCE++, arXiv:2501.03262.
    """
    return whiten(returns(reward_BT, mask_BT, discount), mask_BT, epsilon)


def whiten(value_BT: Tensor, mask_BT: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Own tokens' values less their mean, over their standard deviation (of the population) plus `epsilon`; over the
    whole batch, so give it all ranks' rows. 0 off the mask."""
    own_N = value_BT[mask_BT]
    if not own_N.numel():
        raise ValueError("no token to normalise over: every row of the mask is empty")
    own_N = own_N - own_N[0]
    own_N = own_N - own_N.mean()
    out_BT = torch.zeros_like(value_BT)
    out_BT[mask_BT] = own_N / (own_N.square().mean().sqrt() + epsilon)
    return out_BT


def spread(value_B: Tensor, mask_BT: Tensor) -> Tensor:
    """One value for each sequence as one for each of its own tokens, 0 off the mask."""
    return torch.where(mask_BT, value_B[:, None], torch.zeros_like(value_B[:, None]))


def varied(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """Whether the rewards of a sequence's group differ at all, bool of shape B."""
    group_B = numbered(group_B)
    least_B, most_B = _least(reward_B, group_B)[group_B], -_least(-reward_B, group_B)[group_B]
    return most_B > least_B


def _centred(reward_B: Tensor, group_B: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards less their group's mean, the size of each one's group, and groups numbered without gaps."""
    group_B = numbered(group_B)
    count_B = _sums(torch.ones_like(reward_B), group_B)[group_B]
    if (count_B < 2).any():
        row = int((count_B < 2).nonzero()[0])
        raise ValueError(f"row {row} is alone in its group: {name} needs at least two samples of every prompt")
    moved_B = reward_B - _least(reward_B, group_B)[group_B]
    return moved_B - _sums(moved_B, group_B)[group_B] / count_B, count_B, group_B


def _sums(value_B: Tensor, group_B: Tensor) -> Tensor:
    zeros_G = value_B.new_zeros(int(group_B.max()) + 1)
    return zeros_G.index_add(0, group_B, value_B)


def _least(value_B: Tensor, group_B: Tensor) -> Tensor:
    zeros_G = value_B.new_zeros(int(group_B.max()) + 1)
    return zeros_G.scatter_reduce(0, group_B, value_B, "amin", include_self=False)

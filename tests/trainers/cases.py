"""Random batches for property tests: small, with prompts, tool replies in the middle and padding."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from trainers.batch import Batch

torch.set_num_threads(1)
REWARD = st.floats(-10, 10, width=32)


@dataclass(frozen=True)
class Case:
    """Tensors in float64. new: log-probabilities of the policy now; the others as in Batch and Targets."""

    batch: Batch
    old_BT: Tensor
    new_BT: Tensor
    reference_BT: Tensor
    value_BT: Tensor
    entropy_BT: Tensor


@st.composite
def cases(draw: st.DrawFn, *, size: int | None = None, whole: bool = False) -> Case:
    """size: of every group, else any from 2 on. whole: outputs of equal length, all of it the policy's."""
    sizes = draw(st.lists(st.just(size) if size else st.integers(2, 4), min_size=1, max_size=3))
    count, width, limit = sum(sizes), draw(st.integers(3, 8)), 8
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def noise(scale: float = 1.0) -> Tensor:
        return torch.randn(count, width, generator=random, dtype=torch.float64) * scale

    length_B = torch.randint(2, width + 1, (count,), generator=random)
    mask_BT = torch.rand(count, width, generator=random) < 0.7
    if whole:
        length_B, mask_BT = torch.full((count,), width), torch.ones(count, width, dtype=torch.bool)
    place_T = torch.arange(width)
    mask_BT &= (place_T > 0) & (place_T < length_B[:, None])
    mask_BT[torch.arange(count), length_B - 1] = True
    old_BT = -noise().abs() - 0.1
    batch = Batch(
        tokens_BT=torch.randint(1, 9, (count, width), generator=random) * (place_T < length_B[:, None]),
        length_B=length_B,
        mask_BT=mask_BT,
        sampled_BT=(old_BT + noise(0.5)).masked_fill(~mask_BT, 0).float().double(),  # an engine's are float32
        reward_B=torch.tensor(draw(st.lists(REWARD, min_size=count, max_size=count)), dtype=torch.float64),
        group_B=torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        ended_B=torch.rand(count, generator=random) < 0.8,
        limit=limit,
    )
    return Case(batch, old_BT, old_BT + noise(0.5), old_BT + noise(0.5), noise(), noise().abs())


def spoilt(value_BT: Tensor, mask_BT: Tensor, with_: float = float("nan")) -> Tensor:
    """The same on the mask, nonsense off it."""
    return value_BT.masked_fill(~mask_BT, with_)

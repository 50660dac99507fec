"""Micro-batches: which sequences go through a model together, and as what tensors.

Packed, sequences stand one behind the other in one row, as long as its budget of tokens or the longest sequence;
padded, each has a row, filled up on its right, where no token of a causal model looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainers.attention import bounds
from trainers.batch import Batch, Rows, packed

Kind = TypeVar("Kind", bound=Rows)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a model takes in: R rows of N tokens. `position_RN`: None where each row is one sequence. `before_n`: where
    in the rows, flattened, the token before each of the n own tokens is; `target_n`: the own tokens themselves, in the
    order in which the batch's mask has them. `bounds`: more arguments of the model, for its attention."""

    tokens_RN: Tensor
    position_RN: Tensor | None
    before_n: Tensor
    target_n: Tensor
    bounds: dict[str, Any] = field(default_factory=dict)


def inputs(batch: Batch, pack: bool, total: int = 0) -> Inputs:
    """A micro-batch's tensors; a packed row is filled up to `total` tokens, so that all have one shape."""
    target_n = batch.tokens_BT[batch.mask_BT]
    if not pack:
        places = batch.mask_BT.flatten().nonzero()[:, 0]
        return Inputs(batch.tokens_BT, None, places - 1, target_n)
    found = packed(batch)
    fill = max(total - found.tokens_1N.shape[1], 0)
    tail = torch.arange(fill, device=target_n.device)[None]
    tokens_1N = torch.cat([found.tokens_1N, torch.zeros_like(tail)], dim=1)
    position_1N = torch.cat([found.position_1N, tail], dim=1)
    places = found.mask_1N[0].nonzero()[:, 0]
    return Inputs(tokens_1N, position_1N, places - 1, target_n, bounds(batch.length_B, tokens_1N.shape[1]))


def cut(rows: Kind, index: Sequence[int], width: int) -> Kind:
    """Some rows of a batch, or of what was made of it, and their first `width` tokens."""
    found = {field.name: getattr(rows, field.name) for field in fields(rows)}
    device = next(value.device for value in found.values() if isinstance(value, Tensor))
    place_B = torch.tensor(list(index), dtype=torch.int64, device=device)
    return replace(
        rows,
        **{
            name: value[place_B, :width] if value.dim() > 1 else value[place_B]
            for name, value in found.items()
            if isinstance(value, Tensor)
        },
    )


def plan(lengths: Sequence[int], budget: int, pack: bool, ranks: int = 1) -> list[list[list[int]]]:
    """Places of the sequences in each rank's micro-batches, as many for every rank, none over the budget of tokens
    (padding counted) unless a single sequence is. Longest first, each where the fewest tokens are: the ranks' work is
    even, and every rank finds the same plan."""
    count = max(-(-sum(lengths) // budget), 1)
    while True:
        count = -(-count // ranks) * ranks
        bins = _spread(lengths, min(count, -(-len(lengths) // ranks) * ranks), pack)
        if count >= len(lengths) or all(_size(one, lengths, pack) <= budget or len(one) == 1 for one in bins):
            return [bins[rank::ranks] for rank in range(ranks)]
        count += 1


def _spread(lengths: Sequence[int], count: int, pack: bool) -> list[list[int]]:
    bins: list[list[int]] = [[] for _ in range(count)]
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    if not pack:  # neighbours in length stand together: little padding
        share = -(-len(order) // count)
        return [sorted(order[start : start + share]) for start in range(0, count * share, share)]
    sums = [0] * count
    for place in order:
        emptiest = sums.index(min(sums))
        bins[emptiest].append(place)
        sums[emptiest] += lengths[place]
    return [sorted(one) for one in bins]


def _size(one: Sequence[int], lengths: Sequence[int], pack: bool) -> int:
    """Tokens that go through the model, padding among them."""
    found = [lengths[place] for place in one]
    return sum(found) if pack else max(found, default=0) * len(found)

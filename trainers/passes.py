"""Passes of a batch through a network, cut into micro-batches and shared out over ranks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.batch import Batch
from trainers.fsdp import Ranks
from trainers.logprobs import spread
from trainers.micro import Inputs, cut, inputs, plan


@dataclass(frozen=True)
class Micro:
    """Rows of a batch that go through together; `counts` is 0 where they only keep step with the other ranks."""

    rows: list[int]
    width: int  # tokens of the longest
    counts: float
    batch: Batch
    inputs: Inputs


@dataclass(frozen=True)
class Passes:
    """budget: tokens of a micro-batch; pack: without padding; fill: packed rows are filled up to the budget, so that
    they have one shape."""

    budget: int
    pack: bool
    fill: bool
    ranks: Ranks | None = None

    def micro(self, batch: Batch, index: Sequence[int]) -> Iterator[Micro]:
        """This rank's micro-batches of these rows of a batch; every rank has as many."""
        lengths: list[int] = batch.length_B.tolist()
        of_each = plan([lengths[row] for row in index], self.budget, self.pack, self.ranks.count if self.ranks else 1)
        total = max(self.budget, *lengths) if self.fill else 0
        for places in of_each[self.ranks.rank if self.ranks else 0]:
            rows = [index[place] for place in places] or [index[0]]
            width = max(lengths[row] for row in rows)
            part = cut(batch, rows, width)
            yield Micro(rows, width, 1.0 if places else 0.0, part, inputs(part, self.pack, total))

    @torch.no_grad()
    def filled(self, batch: Batch, compute: Callable[[Inputs], Sequence[Tensor]]) -> list[Tensor]:
        """What is computed for every own token of a batch, at its place: shape BT, 0 off the mask, on every rank."""
        out: list[Tensor] = []
        for micro in self.micro(batch, range(len(batch.reward_B))):
            found = compute(micro.inputs)
            out = out or [one.new_zeros(batch.tokens_BT.shape) for one in found]
            for whole, one in zip(out, found, strict=True):
                if micro.counts:
                    whole[micro.rows, : micro.width] = spread(one, micro.batch.mask_BT)
        return [self.ranks.total(whole) for whole in out] if self.ranks else out

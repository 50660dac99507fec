"""A stand-in for the trainer: it holds a model's weights in one flat buffer, changes them, and sends them.

`python -m harness.worker.holder NAME INCOMING OUTGOING`.
"""

import math
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.worker.__main__ import serve
from harness.worker.adapter import Adapter, merged, of_weight
from harness.worker.flat import held, layout, rows, shares
from harness.worker.sender import Sender
from harness.worker.transports import disk, shm

BASE = 2_000_000_000  # the step whose weights are those that an adapter is merged into
Named = tuple[str, Any]  # a tensor with its name in the checkpoint


class Holder(Sender):
    """Weights of the shapes given, or one rank's rows of them; each `update` is another set of random ones, scaled as a
    model's are, the same however many ranks share them.

    With `merged_rank` only an adapter of that rank changes, and the weights are those of a base with it merged in; the
    matrices of the base that it changes are held besides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.adapter: Adapter | None = None
        self.base: dict[str, Any] = {}

    def hold(
        self, tensors: list[tuple[str, list[int]]], dtype: str, device: str, rank: int = 0, ranks: int = 1,
        on_host: bool = False, merged_rank: int = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """`on_host`: in host memory that `shm` shares as it is, though made on the device. Raises ValueError for an
        adapter of several ranks: it is merged by one sender that holds whole tensors."""
        import torch

        self.rank, self.ranks, self.device = rank, ranks, device
        self.dtype = getattr(torch, dtype)
        self.slots = layout(tensors, self.dtype.itemsize)
        self.pieces = shares(self.slots, rank, ranks)
        have = [slot for slot in self.slots if self._rows(slot.shape[0])]
        self.places = {slot.name: piece for slot, piece in zip(have, self.pieces, strict=True)}
        size = held(self.pieces)
        self.buffer = shm.held(size) if on_host else torch.zeros(size, dtype=torch.uint8, device=device)
        if merged_rank and ranks > 1:
            raise ValueError("an adapter is merged by one sender that holds whole tensors, not by several with shards")
        if merged_rank:
            self._hold_base(merged_rank)
        return self.held() | {"base": sum(tensor.nbytes for tensor in self.base.values())}

    def _hold_base(self, rank: int) -> None:
        self.adapter = self._adapter(rank)
        for name, tensor in self._made(BASE):
            self._write([(name, tensor)])
            if of_weight(name)[0] in self.adapter.tensors:
                self.base[name] = tensor

    def _adapter(self, rank: int) -> Adapter:
        found = Adapter()
        dtype, tensors = str(self.dtype).removeprefix("torch."), [(slot.name, list(slot.shape)) for slot in self.slots]
        found.hold(tensors, rank, dtype, self.device)
        return found

    def update(self, step: int | None) -> float:
        """The weights of another step, on the device when this returns; seconds of a merge, from the adapter as it is
        trained to the weights as they are sent. None: the base alone, where an adapter is merged."""
        if self.adapter is None:
            assert step is not None, "there is no base, only steps"
            self._write(self._made(step))
            return 0.0
        self.adapter.update(step)
        start = time.perf_counter()
        self._write(merged(self.base.items(), self.adapter.tensors))
        return time.perf_counter() - start

    def _write(self, named: Iterable[Named]) -> None:
        """Into the buffer what of these tensors is mine, on the device when this returns."""
        import torch

        with torch.no_grad():
            for name, tensor in named:
                if mine := self._rows(tensor.shape[0]):
                    piece, part = self.places[name], tensor[mine.start : mine.stop]
                    self.buffer[piece.local : piece.end].view(self.dtype).view(part.shape).copy_(part)
        self._fence()

    def _rows(self, count: int) -> range:
        """Of a tensor with so many rows those that are mine."""
        return range(*rows(count, self.rank, self.ranks))

    def _made(self, step: int) -> Iterator[Named]:
        import torch

        generator = torch.Generator(self.device).manual_seed(step)
        for slot in self.slots:
            tensor = torch.empty(slot.shape, dtype=self.dtype, device=self.device)
            if slot.name.endswith("norm.weight"):
                yield slot.name, tensor.normal_(1.0, 0.1, generator=generator)
            else:
                yield slot.name, tensor.normal_(0.0, 1 / math.sqrt(slot.shape[-1]), generator=generator)

    def checkpoint(self, step: int, folder: str, model: str) -> None:
        """Write the weights of a step, made anew, whole and apart from all that was sent."""
        named: Iterable[Named] = self._made(step if self.adapter is None else BASE)
        if self.adapter is not None:
            fresh = self._adapter(self.adapter.rank)
            fresh.update(step)
            named = merged(named, fresh.tensors)
        disk.write(named, Path(folder), model)

    def close(self) -> None:
        del self.buffer
        self.base.clear()


if __name__ == "__main__":
    serve(Holder(), int(sys.argv[2]), int(sys.argv[3]))

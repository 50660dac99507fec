"""A stand-in for the trainer: it holds a model's weights in one flat buffer, changes them, and sends them.

`python -m harness.worker.holder NAME INCOMING OUTGOING`.
"""

import math
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.worker import transports
from harness.worker.__main__ import serve
from harness.worker.adapter import Adapter, merged, of_weight
from harness.worker.flat import Piece, Slot, buckets, held, layout, rows, shares
from harness.worker.transports import disk, shm

BASE = 2_000_000_000  # the step whose weights are those that an adapter is merged into
Named = tuple[str, Any]  # a tensor with its name in the checkpoint


class Holder:
    """Weights of the shapes given, or one rank's rows of them; each `update` is another set of random ones, scaled as a
    model's are, the same however many ranks share them.

    With `merged_rank` only an adapter of that rank changes, and the weights are those of a base with it merged in; the
    matrices of the base that it changes are held besides.
    """

    slots: list[Slot]
    pieces: dict[str, Piece]  # by name
    buffer: Any
    dtype: Any
    device: str  # where weights are made

    def __init__(self) -> None:
        self.addresses: dict[str, dict[str, Any]] = {}  # by transport
        self.rank, self.ranks = 0, 1
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
        mine, have = shares(self.slots, rank, ranks), [slot for slot in self.slots if self._rows(slot.shape[0])]
        self.pieces = {slot.name: piece for slot, piece in zip(have, mine, strict=True)}
        size = held(mine)
        self.buffer = shm.held(size) if on_host else torch.zeros(size, dtype=torch.uint8, device=device)
        if merged_rank and ranks > 1:
            raise ValueError("an adapter is merged by one sender that holds whole tensors, not by several with shards")
        if merged_rank:
            self._hold_base(merged_rank)
        slots = [[slot.name, list(slot.shape), slot.offset, slot.bytes] for slot in self.slots]
        return {
            "slots": slots, "bytes": sum(slot.bytes for slot in self.slots), "buffer": self.buffer.numel(),
            "base": sum(tensor.nbytes for tensor in self.base.values()),
        }  # fmt: skip

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
                    piece, part = self.pieces[name], tensor[mine.start : mine.stop]
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

    def sent(self) -> int:
        """A hash of the weights."""
        from harness.worker.hashes import hashed

        return hashed(self.buffer)

    def offer(
        self, transport: str, folder: str, model: str, receivers: int = 1, bucket: int = 1 << 26
    ) -> dict[str, Any]:
        """Address of the weights for the receivers, over that transport. `model`: a folder with its configuration;
        `bucket`: bytes that a transport sends at once."""
        module = transports.load(transport)
        address: dict[str, Any] = module.offer(self.buffer, self.slots, self.dtype, folder) | {
            "model": model,
            "sender": self.rank,
            "senders": self.ranks,
            "receivers": receivers,
            "pieces": [[piece.flat, piece.bytes, piece.local, piece.row] for piece in self.pieces.values()],
            "buckets": buckets(list(self.pieces.values()), bucket),
            "bucket": bucket,
        }
        if hasattr(module, "meet"):
            module.meet(self.buffer, self.slots, self.dtype, address)
        self.addresses[transport] = address
        return address

    def send(self, transport: str) -> Any:
        """Send the weights; they are there when this returns, what it returns is for the engine."""
        found = transports.load(transport).send(self.buffer, self.slots, self.dtype, self.addresses[transport])
        self._fence()
        return found

    def _fence(self) -> None:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize(self.device)

    def close(self) -> None:
        del self.buffer
        self.base.clear()


if __name__ == "__main__":
    serve(Holder(), int(sys.argv[2]), int(sys.argv[3]))

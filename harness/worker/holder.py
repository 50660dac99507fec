"""A stand-in for the trainer: it holds a model's weights in one flat buffer, changes them, and sends them.

`python -m harness.worker.holder NAME INCOMING OUTGOING`.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.worker import transports
from harness.worker.__main__ import serve
from harness.worker.flat import Piece, Slot, buckets, held, layout, rows, shares
from harness.worker.offers import Unfit
from harness.worker.transports import disk


class Holder:
    """Weights of the shapes given, or one rank's rows of them; each `update` is another set of random ones, scaled as a
    model's are, the same however many ranks share them."""

    slots: list[Slot]
    pieces: list[Piece]
    buffer: Any
    dtype: Any

    def __init__(self) -> None:
        self.addresses: dict[str, dict[str, Any]] = {}  # by transport
        self.rank, self.ranks = 0, 1

    def hold(
        self, tensors: list[tuple[str, list[int]]], dtype: str, device: str, rank: int = 0, ranks: int = 1
    ) -> dict[str, Any]:
        import torch

        self.rank, self.ranks = rank, ranks
        self.dtype = getattr(torch, dtype)
        self.slots = layout(tensors, self.dtype.itemsize)
        self.pieces = shares(self.slots, rank, ranks)
        self.buffer = torch.zeros(held(self.pieces), dtype=torch.uint8, device=device)
        slots = [[slot.name, list(slot.shape), slot.offset, slot.bytes] for slot in self.slots]
        return {
            "slots": slots,
            "dtype": dtype,
            "bytes": sum(slot.bytes for slot in self.slots),
            "buffer": self.buffer.numel(),
        }

    def update(self, step: int) -> None:
        """The weights of another step, on the device when this returns."""
        import torch

        pieces = iter(self.pieces)
        with torch.no_grad():
            for slot, tensor in self._made(step):
                begin, end = rows(slot.shape[0], self.rank, self.ranks)
                if end > begin:
                    piece = next(pieces)
                    mine = self.buffer[piece.local : piece.end].view(self.dtype).view(end - begin, *slot.shape[1:])
                    mine.copy_(tensor[begin:end])
        self._fence()

    def _made(self, step: int) -> Iterator[tuple[Slot, Any]]:
        import torch

        generator = torch.Generator(self.buffer.device).manual_seed(step)
        for slot in self.slots:
            tensor = torch.empty(slot.shape, dtype=self.dtype, device=self.buffer.device)
            if slot.name.endswith("norm.weight"):
                yield slot, tensor.normal_(1.0, 0.1, generator=generator)
            else:
                yield slot, tensor.normal_(0.0, 1 / math.sqrt(slot.shape[-1]), generator=generator)

    def checkpoint(self, step: int, folder: str, model: str) -> None:
        """Write the weights of a step, made anew, whole and apart from all that was sent."""
        disk.write(((slot.name, tensor) for slot, tensor in self._made(step)), Path(folder), model)

    def sent(self) -> int:
        """A hash of the weights."""
        from harness.worker.hashes import hashed

        return hashed(self.buffer)

    def offer(
        self, transport: str, folder: str, model: str, receivers: int = 1, bucket: int = 1 << 26, patience: float = 60.0
    ) -> dict[str, Any]:
        """Address of the weights for the receivers, over that transport. `model`: a folder with its configuration;
        `bucket`: bytes that a transport sends at once; `patience`: seconds that it waits for the other side. Raises
        Unfit where the transport cannot have them."""
        module = transports.load(transport)
        try:
            offered = module.offer(self.buffer, self.slots, self.dtype, folder)
        except (OSError, RuntimeError, ValueError) as error:
            raise Unfit(f"{transport} cannot send these weights: {error}") from error
        address: dict[str, Any] = offered | {
            "model": model,
            "sender": self.rank,
            "senders": self.ranks,
            "receivers": receivers,
            "pieces": [[piece.flat, piece.bytes, piece.local, piece.row] for piece in self.pieces],
            "buckets": buckets(self.pieces, bucket),
            "bucket": bucket,
            "patience": patience,
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
        if self.buffer.is_cuda:
            import torch

            torch.cuda.synchronize(self.buffer.device)

    def close(self) -> None:
        del self.buffer


if __name__ == "__main__":
    serve(Holder(), int(sys.argv[2]), int(sys.argv[3]))

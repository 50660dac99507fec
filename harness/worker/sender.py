"""What every sender of weights does, whatever changes them: offer one flat buffer over a transport, and send it.

harness/worker/flat.py has the layout.
"""

from typing import Any

from harness.worker import transports
from harness.worker.flat import Piece, Slot, buckets
from harness.worker.offers import Unfit


class Sender:
    """Holds a checkpoint's tensors (`slots`) of one dtype, or one rank's `pieces` of them, in `buffer` (uint8)."""

    slots: list[Slot]
    pieces: list[Piece]
    buffer: Any
    dtype: Any
    device: str  # where weights are made
    rank = 0
    ranks = 1

    def __init__(self) -> None:
        self.addresses: dict[str, dict[str, Any]] = {}  # by transport

    def held(self) -> dict[str, Any]:
        """What the other side must know: slots as lists, bytes of all weights, and of the buffer here."""
        slots = [[slot.name, list(slot.shape), slot.offset, slot.bytes] for slot in self.slots]
        return {
            "slots": slots, "dtype": str(self.dtype).removeprefix("torch."), "buffer": self.buffer.numel(),
            "bytes": sum(slot.bytes for slot in self.slots),
        }  # fmt: skip

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
        except (MemoryError, OSError, RuntimeError, ValueError) as error:
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
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize(self.device)

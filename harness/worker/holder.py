"""A stand-in for the trainer: it holds a model's weights in one flat buffer, changes them, and sends them.

`python -m harness.worker.holder NAME INCOMING OUTGOING`.
"""

import math
import sys
from typing import Any

from harness.worker import transports
from harness.worker.__main__ import serve
from harness.worker.flat import Slot, extent, layout, views


class Holder:
    """Weights of the shapes given; each `update` is another set of random ones, scaled as a model's are."""

    slots: list[Slot]
    buffer: Any
    dtype: Any

    def __init__(self) -> None:
        self.addresses: dict[str, dict[str, Any]] = {}  # by transport

    def hold(self, tensors: list[tuple[str, list[int]]], dtype: str, device: str) -> dict[str, Any]:
        import torch

        self.dtype = getattr(torch, dtype)
        self.slots = layout(tensors, self.dtype.itemsize)
        self.buffer = torch.zeros(extent(self.slots), dtype=torch.uint8, device=device)
        slots = [[slot.name, list(slot.shape), slot.offset, slot.bytes] for slot in self.slots]
        return {"slots": slots, "bytes": sum(slot.bytes for slot in self.slots), "buffer": self.buffer.numel()}

    def update(self, step: int) -> None:
        """The weights of another step, on the device when this returns."""
        import torch

        generator = torch.Generator(self.buffer.device).manual_seed(step)
        with torch.no_grad():
            for name, tensor in views(self.buffer, self.slots, self.dtype):
                if name.endswith("norm.weight"):
                    tensor.normal_(1.0, 0.1, generator=generator)
                else:
                    tensor.normal_(0.0, 1 / math.sqrt(tensor.shape[-1]), generator=generator)
        if self.buffer.is_cuda:
            torch.cuda.synchronize()

    def sent(self) -> int:
        """A hash of the weights."""
        from harness.worker.plan import hashed

        return hashed(self.buffer)

    def offer(self, transport: str, folder: str, model: str) -> dict[str, Any]:
        """Address of the weights for the receivers, over that transport. `model`: a folder with its configuration."""
        address = transports.load(transport).offer(self.buffer, self.slots, self.dtype, folder)
        self.addresses[transport] = address | {"model": model}
        return self.addresses[transport]

    def send(self, transport: str) -> Any:
        """Send the weights; they are there when this returns. What the engine needs besides, where it takes them by a
        way of its own."""
        payload = transports.load(transport).send(self.buffer, self.slots, self.dtype, self.addresses[transport])
        if self.buffer.is_cuda:
            import torch

            torch.cuda.synchronize()
        return payload

    def close(self) -> None:
        del self.buffer


if __name__ == "__main__":
    serve(Holder(), int(sys.argv[2]), int(sys.argv[3]))

"""A model's checkpoint tensors one behind the other in one buffer, which a handle can hand over as a whole."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

ALIGNMENT = 16  # bytes between the starts of tensors: what vectorised copies want, so small that neighbours can merge

Tensor = Any  # torch.Tensor: torch is imported only where an engine's environment has it


@dataclass(frozen=True)
class Slot:
    """One tensor in the buffer: `offset` and `bytes` are where it lies."""

    name: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


def layout(tensors: Sequence[tuple[str, Sequence[int]]], itemsize: int) -> list[Slot]:
    """Slots for tensors of one dtype, in their order."""
    slots, offset = list[Slot](), 0
    for name, shape in tensors:
        size = math.prod(shape) * itemsize
        slots.append(Slot(name, tuple(shape), offset, size))
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    return slots


def extent(slots: Sequence[Slot]) -> int:
    """Bytes of a buffer that holds them."""
    return -(-(slots[-1].offset + slots[-1].bytes) // ALIGNMENT) * ALIGNMENT


def views(buffer: Tensor, slots: Sequence[Slot], dtype: Any) -> Iterator[tuple[str, Tensor]]:
    """Each tensor's name with a view of the buffer (uint8, one dimension)."""
    for slot in slots:
        yield slot.name, buffer[slot.offset : slot.offset + slot.bytes].view(dtype).view(slot.shape)

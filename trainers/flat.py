"""A model's checkpoint in one buffer: the layout that a receiver of weights is told, which needs no packing to be sent.

The rules are those of rollbench's receivers (a test holds the two against each other): tensors of one dtype, one behind
the other, each from a multiple of ALIGNMENT bytes on; a rank of several holds the rows of each that `torch.chunk` gives
it, one behind the other in a smaller buffer.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes between the starts of tensors


class Slot(NamedTuple):
    """A checkpoint's tensor in the flat space: `offset` and `bytes` are where it lies."""

    name: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


class Piece(NamedTuple):
    """Bytes of the flat space from `flat` on, whole rows of one tensor, which a rank's buffer holds from `local` on;
    `row`: bytes of a row."""

    flat: int
    bytes: int
    local: int
    row: int


class Stored(NamedTuple):
    """How a checkpoint stores a parameter: as one tensor of its shape, or, where it is a stack (of experts), as
    several, the same number for each of its `rows` (its first dimension)."""

    rows: int
    slots: tuple[Slot, ...]


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def layout(tensors: Sequence[tuple[str, Sequence[int]]], itemsize: int) -> list[Slot]:
    """Slots for tensors (names and shapes) of one dtype, in their order."""
    slots, offset = list[Slot](), 0
    for name, shape in tensors:
        size = math.prod(shape) * itemsize
        slots.append(Slot(name, tuple(shape), offset, size))
        offset += aligned(size)
    return slots


def extent(slots: Sequence[Slot]) -> int:
    """Bytes of a buffer that holds them."""
    return aligned(slots[-1].offset + slots[-1].bytes)


def rows(count: int, rank: int, ranks: int) -> tuple[int, int]:
    """The first row and the one behind the last of a rank's share, as `torch.chunk` cuts them."""
    share = -(-count // ranks)
    return min(rank * share, count), min((rank + 1) * share, count)


def shares(stored: Sequence[Stored], rank: int, ranks: int) -> list[list[Piece]]:
    """What a rank holds of each parameter: its rows of the one tensor, or whole tensors where it is a stack of them."""
    found, local = list[list[Piece]](), 0
    for parameter in stored:
        pieces = []
        for flat, size, row in _held(parameter, rank, ranks):
            pieces.append(Piece(flat, size, local, row))
            local += aligned(size)
        found.append(pieces)
    return found


def _held(parameter: Stored, rank: int, ranks: int) -> Iterator[tuple[int, int, int]]:
    """Offset in the flat space, bytes, and bytes of a row of each piece."""
    begin, end = rows(parameter.rows, rank, ranks)
    slot = parameter.slots[0]
    if len(parameter.slots) == 1 and slot.shape[0] == parameter.rows:
        row = slot.bytes // slot.shape[0]
        if end > begin:
            yield slot.offset + begin * row, (end - begin) * row, row
        return
    each = len(parameter.slots) // parameter.rows
    for slot in parameter.slots[begin * each : end * each]:
        yield slot.offset, slot.bytes, slot.bytes // slot.shape[0]


def held(pieces: Sequence[Piece]) -> int:
    """Bytes of a buffer that holds them."""
    return aligned(pieces[-1].local + pieces[-1].bytes) if pieces else 0


def views(buffer: Tensor, slots: Sequence[Slot], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Each tensor's name with a view of the buffer (uint8, one dimension)."""
    for slot in slots:
        yield slot.name, buffer[slot.offset : slot.offset + slot.bytes].view(dtype).view(slot.shape)

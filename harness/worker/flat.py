"""A model's checkpoint tensors one behind the other: the flat space, in which every byte of the weights has one place.

A sender holds all of it in one buffer, or its share (rows of every tensor, as FSDP2 shards them) in a smaller one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

ALIGNMENT = 16  # bytes between the starts of tensors: what vectorised copies want, so small that neighbours can merge

Tensor = Any  # torch.Tensor: torch is imported only where an engine's environment has it


@dataclass(frozen=True)
class Slot:
    """One tensor in the flat space: `offset` and `bytes` are where it lies."""

    name: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True)
class Piece:
    """Bytes of the flat space from `flat` on, rows of one tensor, which a sender's buffer holds from `local` on; `row`:
    bytes of a row."""

    flat: int
    bytes: int
    local: int
    row: int

    @property
    def end(self) -> int:
        return self.local + self.bytes


@dataclass(frozen=True)
class Segment:
    """Bytes of the flat space from `begin` on, which are in `tensor` (uint8, one dimension)."""

    begin: int
    tensor: Tensor

    @property
    def end(self) -> int:
        return self.begin + int(self.tensor.numel())


def layout(tensors: Sequence[tuple[str, Sequence[int]]], itemsize: int) -> list[Slot]:
    """Slots for tensors of one dtype, in their order."""
    slots, offset = list[Slot](), 0
    for name, shape in tensors:
        size = math.prod(shape) * itemsize
        slots.append(Slot(name, tuple(shape), offset, size))
        offset += aligned(size)
    return slots


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def extent(slots: Sequence[Slot]) -> int:
    """Bytes of a buffer that holds them."""
    return aligned(max(slot.offset + slot.bytes for slot in slots))


def rows(count: int, rank: int, ranks: int) -> tuple[int, int]:
    """The first row and the one behind the last of a rank's share, as `torch.chunk` cuts them."""
    share = -(-count // ranks)
    return min(rank * share, count), min((rank + 1) * share, count)


def shares(slots: Sequence[Slot], rank: int = 0, ranks: int = 1) -> list[Piece]:
    """What one rank of several holds: its rows of every tensor, one behind the other."""
    found, local = list[Piece](), 0
    for slot in slots:
        begin, end = rows(slot.shape[0], rank, ranks)
        row = slot.bytes // slot.shape[0]
        if end > begin:
            found.append(Piece(slot.offset + begin * row, (end - begin) * row, local, row))
            local += aligned((end - begin) * row)
    return found


def held(pieces: Sequence[Piece]) -> int:
    """Bytes of a buffer that holds them."""
    return aligned(pieces[-1].end)


def buckets(pieces: Sequence[Piece], size: int) -> list[tuple[int, int]]:
    """A sender's buffer cut between rows into parts of at most `size` bytes; a longer row is a part of its own."""
    found, begin = list[tuple[int, int]](), 0
    for piece in pieces:
        while piece.end - begin > size:
            count = (size - (piece.local - begin)) // piece.row
            if count <= 0 and begin < piece.local:
                cut = piece.local
            else:
                cut = min(piece.local + max(count, 1) * piece.row, piece.end)
            found.append((begin, cut))
            begin = cut
            if cut == piece.end:
                break
    return [*found, (begin, held(pieces))] if begin < pieces[-1].end else found


def segments(pieces: Sequence[Piece], begin: int, tensor: Tensor) -> list[Segment]:
    """Where in the flat space the bytes of a sender's buffer from `begin` on are, which `tensor` holds."""
    found, end = list[Segment](), begin + int(tensor.numel())
    for piece in pieces:
        low, high = max(begin, piece.local), min(end, piece.end)
        if low < high:
            found.append(Segment(piece.flat + low - piece.local, tensor[low - begin : high - begin]))
    return found


def views(buffer: Tensor, slots: Sequence[Slot], dtype: Any) -> Iterator[tuple[str, Tensor]]:
    """Each tensor's name with a view of the buffer (uint8, one dimension), which begins where the flat space does."""
    for slot in slots:
        yield slot.name, buffer[slot.offset : slot.offset + slot.bytes].view(dtype).view(slot.shape)


def overlaps(found: Sequence[Segment], slot: Slot) -> list[tuple[int, Tensor]]:
    """The parts of a tensor that segments hold: where in it each begins, in bytes, and the part."""
    parts = []
    for segment in found:
        low, high = max(slot.offset, segment.begin), min(slot.offset + slot.bytes, segment.end)
        if low < high:
            parts.append((low - slot.offset, segment.tensor[low - segment.begin : high - segment.begin]))
    return parts

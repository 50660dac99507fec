"""Tensors in groups of limited size, so that what is copied on the way needs little memory."""

from collections.abc import Sequence

from harness.worker.flat import Slot

BYTES = 512 << 20  # of a bucket, as RL frameworks have it


def buckets(slots: Sequence[Slot], size: int) -> list[list[Slot]]:
    """The slots in their order, each group of at most `size` bytes; a larger one alone."""
    found: list[list[Slot]] = []
    filled = 0
    for slot in slots:
        if not found or filled + slot.bytes > size:
            found.append([])
            filled = 0
        found[-1].append(slot)
        filled += slot.bytes
    return found

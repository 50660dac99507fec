"""Device memory that only training needs, in host memory while the engine generates.

A tensor keeps its place in the program and loses its memory: its storage is emptied and filled again, so that whatever
views it (parameters, optimiser states, shards) finds its values back.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Offload:
    """Moves tensors' storages to host memory (page-locked beside a GPU, taken once and kept) and back. Those of
    `dropped` are zero when they come back: gradients between steps."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.host = device, torch.empty(0, dtype=torch.uint8)
        self.kept, self.dropped = list[Tensor](), list[Tensor]()

    @property
    def away(self) -> bool:
        return bool(self.kept or self.dropped)

    def out(self, kept: Sequence[Tensor], dropped: Sequence[Tensor]) -> dict[str, int]:
        """Free their device memory, done when this returns. Bytes that were moved and that were let go. Raises
        RuntimeError when some are already away."""
        if self.away:
            raise RuntimeError("the trainer is offloaded already: bring it back first")
        kept, dropped = _storages(kept), _storages(dropped)
        self._room(sum(one.numel() for one in kept))
        self._copy(kept, out=True)
        for one in (*kept, *dropped):
            one.untyped_storage().resize_(0)
        self.kept, self.dropped = kept, dropped
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return {"moved": sum(one.numel() for one in kept), "dropped": sum(one.numel() for one in dropped)}

    def back(self) -> dict[str, int]:
        """Bring them back, done when this returns; bytes that were moved."""
        for one in (*self.kept, *self.dropped):
            one.untyped_storage().resize_(one.numel())
        self._copy(self.kept, out=False)
        for one in self.dropped:
            one.zero_()
        moved = sum(one.numel() for one in self.kept)
        self.kept, self.dropped = [], []
        return {"moved": moved}

    def _copy(self, tensors: Sequence[Tensor], out: bool) -> None:
        offset = 0
        for one in tensors:
            here = self.host[offset : offset + one.numel()]
            (here if out else one).copy_(one if out else here, non_blocking=True)
            offset += one.numel()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _room(self, size: int) -> None:
        """Host memory of that size; page-locked in place, as torch's own pinned memory takes the next power of two."""
        if self.host.numel() >= size:
            return
        self.close()
        self.host = torch.empty(size, dtype=torch.uint8)
        if self.device.type == "cuda":
            code = int(torch.cuda.cudart().cudaHostRegister(self.host.data_ptr(), size, 0))  # type: ignore[no-untyped-call]
            if code:
                raise RuntimeError(
                    f"cannot lock {size / 2**30:.1f} GiB of host memory for offloading (CUDA error {code})"
                )

    def close(self) -> None:
        """Give the host memory back."""
        if self.device.type == "cuda" and self.host.numel():
            torch.cuda.cudart().cudaHostUnregister(self.host.data_ptr())  # type: ignore[no-untyped-call]
        self.host = torch.empty(0, dtype=torch.uint8)


def _storages(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each storage once, whole, as bytes."""
    found = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in found:
            found[storage.data_ptr()] = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(
                storage, 0, (storage.nbytes(),), (1,)
            )
    return list(found.values())

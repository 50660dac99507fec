"""Host shared memory: the sender copies its buffer into a file in memory, which the engine maps."""

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.worker.flat import Slot
from harness.worker.offers import Unfit
from harness.worker.source import Source, mapped
from harness.worker.transports.disk import room

TOGETHER = False
Address = dict[str, Any]
_mapped: dict[str, Any] = {}  # by path: the sender maps a file once


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    """Raises OSError where the weights do not fit into shared memory."""
    room(folder, buffer.numel())
    path = Path(folder, f"weights-{os.getpid()}")
    with path.open("wb") as file:
        file.truncate(buffer.numel())
    return {"path": str(path), "bytes": buffer.numel()}


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> None:
    path = address["path"]
    if path not in _mapped:
        _mapped[path] = _map(path, address["bytes"])
    _mapped[path].copy_(buffer, non_blocking=True)


def opened(addresses: Sequence[Address], device: Any, rank: int) -> Source:
    """On the host: the plan's copies go from there to wherever the parameters are. Raises Unfit for a file that is gone
    or too short."""
    for number, address in enumerate(addresses):
        path, size = Path(address["path"]), address["bytes"]
        if (there := path.stat().st_size if path.is_file() else 0) < size:
            raise Unfit(f"{path} has {there} of the {size} bytes that sender {number} offers: is the sender alive?")
    found = [_map(address["path"], address["bytes"]) for address in addresses]

    def close() -> None:
        """Unlock the pages, or another mapping at their address could not be locked."""
        import torch

        for buffer in found if torch.cuda.is_available() else ():
            torch.cuda.check_error(int(torch.cuda.cudart().cudaHostUnregister(buffer.data_ptr())))

    return mapped(found, close)


def _map(path: str, size: int) -> Any:
    """The file's memory as a tensor; on a machine with a GPU page-locked, so that copies run at full speed."""
    import torch

    with Path(path).open("r+b") as file:
        memory = mmap.mmap(file.fileno(), size)
    found = torch.frombuffer(memory, dtype=torch.uint8)
    if torch.cuda.is_available():
        torch.cuda.check_error(int(torch.cuda.cudart().cudaHostRegister(found.data_ptr(), size, 0)))
    return found

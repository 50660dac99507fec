"""Host shared memory: the engine maps memory in which the sender holds its weights, or into which it copies them.

It is a memory file (memfd), which processes of the same user open by the sender's process and descriptor: it has no
place in a file system, no limit but the machine's memory, and goes with the last process that maps it.
"""

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.worker.flat import Slot
from harness.worker.offers import Unfit
from harness.worker.source import Source, mapped

TOGETHER = False
Address = dict[str, Any]
_made: dict[int, Any] = {}  # buffers of this sender by the address of what they share


def held(size: int) -> Any:
    """A buffer (uint8, zeros) that the engine can map as it is. Raises MemoryError where the machine has no room."""
    if size > (free := available()):
        raise MemoryError(f"the machine has {free >> 20} MiB of memory available, the weights take {size >> 20}")
    descriptor = os.memfd_create("rollbench-weights")
    os.truncate(descriptor, size)
    found = _map(f"/proc/self/fd/{descriptor}", size)
    _made[found.data_ptr()] = f"/proc/{os.getpid()}/fd/{descriptor}", found
    return found


def available() -> int:
    """Bytes of memory that the machine can still give."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    """Raises MemoryError where there is no room for a copy."""
    shared = buffer if buffer.data_ptr() in _made else _locked(held(buffer.numel()))
    return {"path": _made[shared.data_ptr()][0], "at": shared.data_ptr(), "bytes": buffer.numel()}


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> None:
    """Nothing where the weights are held in what is shared."""
    if address["at"] != buffer.data_ptr():
        _made[address["at"]][1].copy_(buffer, non_blocking=True)


def opened(addresses: Sequence[Address], device: Any, rank: int) -> Source:
    """On the host: the plan's copies go from there to wherever the parameters are. Raises Unfit for a file that is gone
    or too short."""
    for number, address in enumerate(addresses):
        path, size = Path(address["path"]), address["bytes"]
        if (there := path.stat().st_size if path.is_file() else 0) < size:
            raise Unfit(f"{path} has {there} of the {size} bytes that sender {number} offers: is the sender alive?")
    found = [_locked(_map(address["path"], address["bytes"])) for address in addresses]

    def close() -> None:
        """Unlock the pages, or another mapping at their address could not be locked."""
        import torch

        for buffer in found if torch.cuda.is_available() else ():
            torch.cuda.check_error(int(torch.cuda.cudart().cudaHostUnregister(buffer.data_ptr())))

    return mapped(found, close)


def _map(path: str, size: int) -> Any:
    """The file's memory as a tensor."""
    import torch

    with Path(path).open("r+b") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=torch.uint8)


def _locked(buffer: Any) -> Any:
    """On a machine with a GPU page-locked, so that copies run at full speed."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.check_error(int(torch.cuda.cudart().cudaHostRegister(buffer.data_ptr(), buffer.numel(), 0)))
    return buffer

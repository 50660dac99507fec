"""CUDA IPC: the senders' buffers, mapped into the engine's processes on the same machine. Nothing is copied on the way;
from another GPU the copies go over NVLink.

A buffer must stay where it is as long as it is mapped.
"""

from collections.abc import Sequence
from typing import Any

from harness.worker.flat import Slot
from harness.worker.source import Source, mapped

TOGETHER = False
Address = dict[str, Any]


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    if not buffer.is_cuda:
        raise ValueError("CUDA IPC needs the sender's weights on a GPU")
    storage = buffer.untyped_storage()
    _, memory, size, offset, counter, counter_offset, event, event_sync = storage._share_cuda_()
    return {
        "gpu": identity(buffer.device.index), "memory": memory.hex(), "size": size, "offset": offset,
        "counter": counter.hex(), "counter_offset": counter_offset, "event": event.hex(), "event_sync": event_sync,
        "bytes": buffer.numel(),
    }  # fmt: skip


def identity(index: int) -> str:
    """What names a GPU in every process of the machine, whichever of them it sees."""
    import torch

    return str(torch.cuda.get_device_properties(index).uuid)


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> None:
    """The receivers see the buffer itself."""


def opened(addresses: Sequence[Address], device: Any, rank: int) -> Source:
    """torch unmaps a buffer with the last tensor that looks into it. Raises RuntimeError for one that cannot be mapped
    here."""
    import torch

    if device.type != "cuda":
        raise RuntimeError("CUDA IPC needs the engine on a GPU")
    here = {identity(index): index for index in range(torch.cuda.device_count())}
    found = []
    for address in addresses:
        if address["gpu"] not in here:
            raise RuntimeError(f"the weights lie on GPU {address['gpu']}, which the engine's process does not see")
        storage = torch.UntypedStorage._new_shared_cuda(
            here[address["gpu"]], bytes.fromhex(address["memory"]), address["size"], address["offset"],
            bytes.fromhex(address["counter"]), address["counter_offset"], bytes.fromhex(address["event"]),
            address["event_sync"],
        )  # fmt: skip
        buffer = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        found.append(buffer[: address["bytes"]])
    return mapped(found)

"""CUDA IPC: the senders' buffers, mapped into the engine's processes on the same machine. Nothing is copied on the way;
from another GPU the copies go over NVLink.

A buffer must stay where it is as long as it is mapped.
"""

from collections.abc import Sequence
from typing import Any

from harness.worker.flat import Slot
from harness.worker.offers import Unfit
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
    """torch unmaps a buffer with the last tensor that looks into it. Raises Unfit for one that cannot be mapped."""
    import torch

    if device.type != "cuda":
        raise Unfit("CUDA IPC needs the engine on a GPU: take shm, gloo or disk")
    here = {identity(index): index for index in range(torch.cuda.device_count())}
    found = []
    for number, address in enumerate(addresses):
        gpu = address["gpu"]
        if gpu not in here:
            raise Unfit(
                f"the weights of sender {number} lie on GPU {gpu}, the engine's process sees {', '.join(here)}: "
                "hold them on one of these, or have CUDA_VISIBLE_DEVICES show it that one"
            )
        try:
            buffer = _map(here[gpu], address)
        except (RuntimeError, ValueError) as error:
            first = str(error).partition("\n")[0]
            raise Unfit(f"the handle of sender {number} on the memory of GPU {gpu} opens nothing ({first}): is the "
                        "sender alive, and its buffer where it was?") from None  # fmt: skip
        if buffer.numel() < address["bytes"]:
            raise Unfit(f"the handle of sender {number} opens {buffer.numel()} of {address['bytes']} bytes")
        found.append(buffer[: address["bytes"]])
    return mapped(found)


def _map(gpu: int, address: Address) -> Any:
    import torch

    storage = torch.UntypedStorage._new_shared_cuda(
        gpu, bytes.fromhex(address["memory"]), address["size"], address["offset"], bytes.fromhex(address["counter"]),
        address["counter_offset"], bytes.fromhex(address["event"]), address["event_sync"],
    )  # fmt: skip
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)

"""CUDA IPC: the sender's buffer, mapped into the engine's process on the same GPU. Nothing is copied on the way.

The buffer must stay where it is as long as it is mapped.
"""

from collections.abc import Sequence
from typing import Any

from harness.worker.flat import Slot

Address = dict[str, Any]


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    storage = buffer.untyped_storage()
    device, memory, size, offset, counter, counter_offset, event, event_sync = storage._share_cuda_()
    return {
        "device": device, "memory": memory.hex(), "size": size, "offset": offset, "counter": counter.hex(),
        "counter_offset": counter_offset, "event": event.hex(), "event_sync": event_sync, "bytes": buffer.numel(),
    }  # fmt: skip


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> None:
    """The receivers see the buffer itself."""


def closed(buffer: Any) -> None:
    """torch unmaps it with the last tensor that looks into it."""


def opened(address: Address, device: Any) -> Any:
    """Raises RuntimeError when the buffer cannot be mapped on this GPU."""
    import torch

    if device.type != "cuda":
        raise RuntimeError("CUDA IPC needs the engine on a GPU")
    storage = torch.UntypedStorage._new_shared_cuda(
        device.index, bytes.fromhex(address["memory"]), address["size"], address["offset"],
        bytes.fromhex(address["counter"]), address["counter_offset"], bytes.fromhex(address["event"]),
        address["event_sync"],
    )  # fmt: skip
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)[: address["bytes"]]

"""gloo: packed broadcasts over loopback, from host memory to host memory."""

from collections.abc import Sequence
from typing import Any

from harness.worker.flat import Slot
from harness.worker.source import Source
from harness.worker.transports import broadcast

TOGETHER = True
Address = dict[str, Any]

offer = broadcast.offer


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> None:
    found = broadcast.group("gloo", address, 0)
    for begin, end in address["buckets"]:
        broadcast.waited("gloo", address, broadcast.broadcast(found, buffer[begin:end].cpu()))


def opened(addresses: Sequence[Address], device: Any, rank: int) -> Source:
    """Staged on the host; the device's copies out of a staging buffer end before it is filled again."""
    import torch

    on_gpu = device.type == "cuda"  # copies from page-locked memory run at full speed
    found = broadcast.staged(
        "gloo", addresses, rank, lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu)
    )
    fetch, found.own = found.fetch, 0

    def fetch_behind(stage: int) -> Any:
        if on_gpu:
            torch.cuda.current_stream(device).synchronize()
        return fetch(stage)

    found.fetch = fetch_behind
    return found

"""NCCL: packed broadcasts from a sender's GPU to the engine's, which must be others."""

from collections.abc import Sequence
from typing import Any

from harness.worker.flat import Slot
from harness.worker.offers import Unfit
from harness.worker.source import Source
from harness.worker.transports import broadcast
from harness.worker.transports.ipc import identity

TOGETHER = True
Address = dict[str, Any]


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    if not buffer.is_cuda:
        raise ValueError("NCCL needs the sender's weights on a GPU")
    return broadcast.offer(buffer, slots, dtype, folder) | {"gpu": identity(buffer.device.index)}


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> None:
    found = broadcast.group("nccl", address, 0)
    for begin, end in address["buckets"]:
        broadcast.waited("nccl", address, broadcast.broadcast(found, buffer[begin:end]))


def opened(addresses: Sequence[Address], device: Any, rank: int) -> Source:
    """Raises Unfit where NCCL would refuse the pair of GPUs."""
    import torch

    if device.type != "cuda":
        raise Unfit("NCCL needs the engine on a GPU: take gloo")
    if identity(device.index) in {address["gpu"] for address in addresses}:
        raise Unfit("NCCL joins no two processes on one GPU: use ipc there, or put the trainer on another GPU")
    return broadcast.staged("nccl", addresses, rank, lambda size: torch.empty(size, dtype=torch.uint8, device=device))

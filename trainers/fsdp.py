"""FSDP2: every parameter's rows shared out over ranks, gathered layer by layer while the model computes.

A rank's share of the weights, in the engine's dtype, stands in one flat buffer: the rows that `torch.chunk` gives it,
one behind the other, so that a sync from several senders packs nothing either. Zhao et al. 2023, arXiv:2304.11277.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from trainers.flat import Piece, Slot, Stored, extent, held, shares
from trainers.layerwise import Filler


@dataclass(frozen=True)
class Ranks:
    """The ranks that share a model, and which of them this process is."""

    rank: int
    count: int
    mesh: DeviceMesh

    @property
    def group(self) -> dist.ProcessGroup:
        return self.mesh.get_group()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        dist.all_reduce(tensor, group=self.group)
        return tensor


def check(rank: int, count: int, devices: int, kind: str) -> None:
    """Raises ValueError for ranks that cannot be: each needs a device of its own (a CPU's are its cores)."""
    if not 0 <= rank < count:
        raise ValueError(f"rank {rank} of {count}: ranks are numbered from 0")
    if count > devices:
        raise ValueError(f"{count} ranks on {devices} {kind}: ask for at most {devices}")


def join(rank: int, count: int, address: str, kind: str) -> Ranks:
    """Meet the other ranks at `address`, a torch.distributed URL that all were given (`file:///…` or
    `tcp://127.0.0.1:…`); kind: `cuda` (NCCL, a GPU each) or `cpu` (gloo). Raises ValueError for more ranks than
    devices."""
    devices = torch.cuda.device_count() if kind == "cuda" else len(os.sched_getaffinity(0))
    check(rank, count, devices, "GPUs" if kind == "cuda" else "cores")
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    if kind == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", init_method=address, rank=rank, world_size=count)
    return Ranks(rank, count, DeviceMesh(kind, list(range(count))))


def shard(
    network: nn.Module, layers: Sequence[nn.Module], dtype: torch.dtype, ranks: Ranks, device: torch.device,
    filler: Filler | None = None,
) -> None:  # fmt: skip
    """Share out a network's parameters in float32, which compute in `dtype`; gradients are summed in float32. filler:
    of a network whose parameters have no memory, which is filled layer by layer."""
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    if filler is None:
        network.to(device=device, dtype=torch.float32)
    for module in (*layers, network):
        if filler is not None:
            filler.fill(module, device, torch.float32)
        fully_shard(module, mesh=ranks.mesh, mp_policy=policy)


class Shards:
    """A rank's share of a sharded network's parameters; a `weights.Held`, whose masters are FSDP's own shards.

    parameters: sharded, by name; stored: where the flat space has each.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], stored: Sequence[Stored], dtype: torch.dtype, ranks: Ranks
    ) -> None:
        self.stored, self.ranks = list(stored), ranks
        self.parameters = dict(parameters)
        self.slots: list[Slot] = [slot for place in stored for slot in place.slots]
        found = shares(stored, ranks.rank, ranks.count)
        self.pieces: list[Piece] = [piece for pieces in found for piece in pieces]
        first = local(next(iter(self.parameters.values())))
        self.buffer = torch.zeros(held(self.pieces), dtype=torch.uint8, device=first.device)
        self.parts = dict[str, list[tuple[Tensor, Tensor]]]()  # of each parameter: the buffer's, and the shard's
        for (name, parameter), pieces in zip(self.parameters.items(), found, strict=True):
            self.parts[name] = list(_parts(self.buffer, pieces, dtype, local(parameter)))
        self.masters = {
            name: shard
            for name, parameter in self.parameters.items()
            if parameter.requires_grad and (shard := local(parameter)).numel()
        }
        self.publish()

    def collect(self) -> None:
        for name, master in self.masters.items():
            gradient = self.parameters[name].grad
            master.grad = torch.zeros_like(master) if gradient is None else local(gradient)

    def publish(self) -> None:
        pairs = [pair for parts in self.parts.values() for pair in parts]
        with torch.no_grad():
            torch._foreach_copy_([into for into, _ in pairs], [source for _, source in pairs])

    def clear(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None
        for master in self.masters.values():
            master.grad = None

    def moved(self) -> list[Tensor]:
        return [local(parameter) for parameter in self.parameters.values()]

    def dropped(self) -> list[Tensor]:
        return []

    def gathered(self) -> Tensor:
        of_each = [[one for pieces in shares(self.stored, rank, self.ranks.count) for one in pieces]
                   for rank in range(self.ranks.count)]  # fmt: skip
        room = max(map(held, of_each))
        mine = self.buffer.new_zeros(room)
        mine[: self.buffer.numel()] = self.buffer
        theirs = [torch.empty_like(mine) for _ in of_each]
        dist.all_gather(theirs, mine, group=self.ranks.group)
        flat = self.buffer.new_zeros(extent(self.slots))
        for pieces, buffer in zip(of_each, theirs, strict=True):
            for one in pieces:
                flat[one.flat : one.flat + one.bytes] = buffer[one.local : one.local + one.bytes]
        return flat


def _parts(
    buffer: Tensor, pieces: Sequence[Piece], dtype: torch.dtype, shard: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    offset = 0
    for piece in pieces:
        into = buffer[piece.local : piece.local + piece.bytes].view(dtype)
        yield into, shard.view(-1)[offset : offset + into.numel()]
        offset += into.numel()


def local(tensor: Any) -> Tensor:
    """A rank's part of a sharded tensor, without its history."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def whole(tensor: Any) -> Tensor:
    """All of a sharded tensor, on every rank: all must ask."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()

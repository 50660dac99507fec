"""SGLang's own `update_weights_from_distributed`: every tensor broadcast in a group of its own, NCCL or on a CPU gloo.

As slime does it: a call for each bucket of tensors, for which the engine makes room, then their broadcasts.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from typing import Any

from harness.worker.flat import Slot, views
from harness.worker.transports import group
from harness.worker.transports.buckets import BYTES, buckets
from harness.worker.transports.ipc import identity
from harness.worker.transports.phases import Phases
from harness.worker.transports.sglang_calls import told

ENGINE = "sglang"
TOGETHER = True
BUCKET = BYTES
NAME = "weight_update_group"  # SGLang's own default

Address = dict[str, Any]
_groups: dict[int, "Future[Any]"] = {}  # by port: the process group that the sender made with the engine


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    backend, gpu = ("nccl", identity(buffer.device.index)) if buffer.is_cuda else ("gloo", "")
    return {
        "host": group.HOST, "backend": backend, "gpu": gpu, "dtype": str(dtype).removeprefix("torch."),
        "slots": [[slot.name, list(slot.shape), slot.offset, slot.bytes] for slot in slots],
    }  # fmt: skip


def meet(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> None:
    """Listens, on a port that it adds to the address. `bucket`: bytes that the engine makes room for at once."""
    group.alone(address)
    from torch.distributed import TCPStore

    listener = group.listening()
    port = address["port"] = int(listener.getsockname()[1])
    store = TCPStore(
        group.HOST, port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=group.TIMEOUT),
        master_listen_fd=listener.detach(), use_libuv=False,
    )  # fmt: skip
    _groups[port] = group.meeting(partial(_met, store, address, buffer.device))


def _met(store: Any, address: Address, device: Any) -> Any:
    """The process group, as SGLang makes its side of it; its store is given, since torch's own would listen on every
    interface."""
    import torch
    from sglang.srt.utils import init_custom_process_group
    from torch.distributed import PrefixStore

    if device.type == "cuda":
        torch.cuda.set_device(device)
    return init_custom_process_group(
        backend=address["backend"], store=PrefixStore(NAME, store), world_size=1 + address["receivers"], rank=0,
        group_name=NAME, timeout=timedelta(seconds=group.TIMEOUT),
    )  # fmt: skip


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> None:
    """Returns when all is broadcast; the engine must take it at the same time."""
    from torch.distributed import broadcast

    met = group.met(_groups[address["port"]], f"{address['host']}:{address['port']}")
    for part in buckets(slots, address["bucket"]):
        going = [broadcast(tensor, 0, group=met, async_op=True) for _, tensor in views(buffer, part, dtype)]
        for each in going:
            each.wait()


async def join(adapter: Any, address: Address) -> Address:
    """Raises RuntimeError where the engine shares the sender's GPU, or does not join."""
    from sglang.srt.managers.io_struct import InitWeightsUpdateGroupReqInput

    group.apart(address["gpu"], group.first_gpus(adapter.engine.server_args.tp_size))
    request = InitWeightsUpdateGroupReqInput(
        master_address=address["host"], master_port=address["port"], rank_offset=1,
        world_size=1 + address["receivers"], group_name=NAME, backend=address["backend"],
    )  # fmt: skip
    await group.within(told(adapter, "init_weights_update_group", request), "SGLang's processes")
    return {"backend": address["backend"]}


async def take(adapter: Any, address: Address, payload: None) -> dict[str, float]:
    from sglang.srt.managers.io_struct import UpdateWeightsFromDistributedReqInput

    phases = Phases()
    slots = [Slot(name, tuple(shape), offset, size) for name, shape, offset, size in address["slots"]]
    for part in buckets(slots, address["bucket"]):
        request = UpdateWeightsFromDistributedReqInput(
            names=[slot.name for slot in part], shapes=[list(slot.shape) for slot in part],
            dtypes=[address["dtype"]] * len(part), group_name=NAME, flush_cache=part[-1] == slots[-1],
        )  # fmt: skip
        with phases.timed("load"):
            await told(adapter, "update_weights_from_distributed", request)
    return phases


async def leave(adapter: Any, address: Address) -> None:
    from sglang.srt.managers.io_struct import DestroyWeightsUpdateGroupReqInput

    await told(adapter, "destroy_weights_update_group", DestroyWeightsUpdateGroupReqInput(group_name=NAME))

"""vLLM's own weight transfer over NCCL: tensors packed into buffers of 1 GiB, two in flight, broadcast to the workers.

The trainer's side is vLLM's: `NCCLTrainerWeightTransferEngine` from 0.28 on, before it `trainer_send_weights`.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import fields
from functools import partial
from typing import Any

from harness.worker.flat import Slot, views
from harness.worker.transports import group
from harness.worker.transports.ipc import identity
from harness.worker.transports.vllm_calls import Client, Told, require, rpc, shut_down, source, update

ENGINE = "vllm"
TOGETHER = True
BACKEND = "nccl"
PACKED = {"packed": True, "packed_buffer_size_bytes": 1 << 30, "packed_num_buffers": 2}  # both sides must agree

_groups: dict[int, "Future[Any]"] = {}  # by port: what the sender made with the engine


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Told:
    """Raises RuntimeError for weights that lie on no GPU."""
    if not buffer.is_cuda:
        raise RuntimeError("NCCL needs the weights on a GPU, another than the engine's")
    name = str(dtype).removeprefix("torch.")
    return {
        "host": group.HOST, "port": group.free_port(), "gpu": identity(buffer.device.index),
        "names": [slot.name for slot in slots], "shapes": [list(slot.shape) for slot in slots],
        "dtype_names": [name for _ in slots],
    }  # fmt: skip


def meet(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Told) -> None:
    group.alone(address)
    _groups[address["port"]] = group.meeting(partial(_met, buffer, slots, dtype, address))


def _met(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Told) -> Any:
    """A call that sends: the rendezvous of vLLM's trainer, for which it takes the thread's current device."""
    import torch
    from vllm.distributed.weight_transfer import nccl_engine

    torch.cuda.set_device(buffer.device)
    there = {"master_address": address["host"], "master_port": address["port"], "world_size": 1 + address["receivers"]}
    if hasattr(nccl_engine, "NCCLTrainerWeightTransferEngine"):
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        told = nccl_engine.NCCLTrainerInitInfo(rank=0, **there, **PACKED)
        weights = source(buffer, slots, dtype)
        return WeightTransferTrainerFactory.trainer_init(told, client=Client(), source=weights).send_weights
    joined = nccl_engine.NCCLWeightTransferEngine.trainer_init(there)
    arguments = nccl_engine.NCCLTrainerSendWeightsArgs(group=joined, **PACKED)
    sent = nccl_engine.NCCLWeightTransferEngine.trainer_send_weights
    return lambda: sent(views(buffer, slots, dtype), arguments)


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Told) -> None:
    """Returns when all is broadcast; the engine must take it at the same time."""
    import torch

    sent = group.met(_groups[address["port"]], f"{address['host']}:{address['port']}")
    with torch.cuda.device(buffer.device):
        sent()


async def join(adapter: Any, address: Told) -> Told:
    """Raises RuntimeError where the engine was not started for it or shares the sender's GPU."""
    from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo

    require(adapter, BACKEND)
    group.apart(address["gpu"], group.first_gpus(adapter.config.parallel_config.world_size))
    told = {
        "master_address": address["host"], "master_port": address["port"], "rank_offset": 1,
        "world_size": 1 + address["receivers"], **PACKED,
    }  # fmt: skip
    known = {field.name for field in fields(NCCLWeightTransferInitInfo)}  # before 0.28 `packed` comes with each update
    init = {name: value for name, value in told.items() if name in known}
    await group.within(rpc(adapter, "init_weight_transfer_engine", init_info=init), "vLLM's workers")
    return {}


async def take(adapter: Any, address: Told, payload: None) -> dict[str, float]:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferUpdateInfo

    known = {field.name for field in fields(NCCLWeightTransferUpdateInfo)}
    info = {name: address[name] for name in ("names", "dtype_names", "shapes")} | PACKED
    return await update(adapter, {name: value for name, value in info.items() if name in known})


async def leave(adapter: Any, address: Told) -> None:
    await shut_down(adapter)

"""vLLM's own weight transfer over CUDA IPC: a handle for every parameter, all in one `update_weights`.

The trainer's side is vLLM's: `IPCTrainerWeightTransferEngine` from 0.28 on, before it `trainer_send_weights`. Handles
travel as its HTTP client writes them, pickled and base64, which the workers read only with
VLLM_ALLOW_INSECURE_SERIALIZATION=1 (`harness.worker.engines.vllm` sets it for this backend).
"""

import pickle
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.worker.flat import Slot, views
from harness.worker.transports import group, ray_stand_in
from harness.worker.transports.ipc import identity
from harness.worker.transports.shared import alias, written
from harness.worker.transports.vllm_calls import Client, Told, require, rpc, shut_down, source, update

ENGINE = "vllm"
TOGETHER = False
BACKEND = "ipc"


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Told:
    """Raises RuntimeError for weights that lie on no GPU."""
    if not buffer.is_cuda:
        raise RuntimeError("CUDA IPC needs the weights on the engine's GPU")
    ray_stand_in.install_where_missing()
    from vllm.distributed.weight_transfer import ipc_engine

    return {"stateful": hasattr(ipc_engine, "IPCTrainerWeightTransferEngine"), "gpu": identity(buffer.device.index)}


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Told) -> Told:
    """What `update_weights` is to be told."""
    import torch

    group.alone(address)
    client, shared = Client(), alias(buffer)
    with torch.cuda.device(buffer.device):
        (_send if address["stateful"] else _send_before_28)(client, shared, slots, dtype)
    info = client.told
    return {name: value for name, value in info.items() if name != "ipc_handles" and value is not None} | {
        "ipc_handles_pickled": written(pickle.dumps(info["ipc_handles"]))
    }


def _send(client: Client, buffer: Any, slots: Sequence[Slot], dtype: Any) -> None:
    from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    weights = source(buffer, slots, dtype)
    WeightTransferTrainerFactory.trainer_init(IPCTrainerInitInfo(rank=0), client=client, source=weights).send_weights()


def _send_before_28(client: Client, buffer: Any, slots: Sequence[Slot], dtype: Any) -> None:
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerSendWeightsArgs, IPCWeightTransferEngine

    arguments = IPCTrainerSendWeightsArgs(send_mode=lambda info: client.update_weights(asdict(info)))
    IPCWeightTransferEngine.trainer_send_weights(views(buffer, slots, dtype), arguments)


async def join(adapter: Any, address: Told) -> Told:
    """Raises RuntimeError where the engine was not started for it, or has a GPU that the sender is not on."""
    require(adapter, BACKEND)
    if (gpus := group.first_gpus(adapter.config.parallel_config.world_size)) != [address["gpu"]]:
        raise RuntimeError(
            f"vLLM's IPC wants all weights on each of the engine's GPUs ({', '.join(gpus)}), "
            f"the sender has them on {address['gpu']} alone"
        )
    await rpc(adapter, "init_weight_transfer_engine", init_info={})
    return {"ray": "an empty stand-in, for the import alone"} if ray_stand_in.installed() else {}


async def take(adapter: Any, address: Told, payload: Told) -> dict[str, float]:
    return await update(adapter, payload)


async def leave(adapter: Any, address: Told) -> None:
    await shut_down(adapter)

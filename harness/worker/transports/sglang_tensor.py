"""SGLang's own `update_weights_from_tensor`, plain: a handle for every tensor, all in one call.

The list of tensors is serialised as `Engine.update_weights_from_tensor` does it, in the process that holds them.
"""

from collections.abc import Sequence
from typing import Any

from harness.worker.flat import Slot, views
from harness.worker.transports import group
from harness.worker.transports.phases import Phases
from harness.worker.transports.sglang_calls import serialized, update_from_tensor
from harness.worker.transports.shared import alias, read, written

ENGINE = "sglang"
TOGETHER = False

Address = dict[str, Any]


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    """Nothing is opened once for all; what SGLang needs for sending is imported."""
    serialized(())
    return {}


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> list[str]:
    """SGLang's serialised handles, once for each rank of the engine, since each gives them back."""
    group.alone(address)
    shared = alias(buffer)
    return [written(serialized(list(views(shared, slots, dtype)))) for _ in range(address["receivers"])]


async def join(adapter: Any, address: Address) -> Address:
    """Nothing is opened once for all."""
    return {}


async def take(adapter: Any, address: Address, payload: list[str]) -> dict[str, float]:
    phases = Phases()
    with phases.timed("load"):
        await update_from_tensor(adapter, [read(each) for each in payload], None, flush=True)
    return phases


async def leave(adapter: Any, address: Address) -> None:
    """Nothing was opened."""

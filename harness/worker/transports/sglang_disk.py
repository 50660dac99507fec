"""SGLang's own `update_weights_from_disk`: the sender writes a checkpoint, which the scheduler reads."""

from typing import Any

from harness.worker.transports.disk import ON_DISK, offer, send
from harness.worker.transports.phases import Phases
from harness.worker.transports.sglang_calls import told

__all__ = ["ENGINE", "ON_DISK", "TOGETHER", "join", "leave", "offer", "send", "take"]

ENGINE = "sglang"
TOGETHER = False

Address = dict[str, Any]


async def join(adapter: Any, address: Address) -> Address:
    """Nothing is opened once for all."""
    return {}


async def take(adapter: Any, address: Address, payload: None) -> dict[str, float]:
    """The format is named, since an engine that started with made-up weights would make up new ones."""
    from sglang.srt.managers.io_struct import UpdateWeightFromDiskReqInput

    phases = Phases()
    request = UpdateWeightFromDiskReqInput(model_path=address["path"], load_format="auto")
    with phases.timed("load"):
        await told(adapter, "update_weights_from_disk", request)
    return phases


async def leave(adapter: Any, address: Address) -> None:
    """Nothing was opened."""

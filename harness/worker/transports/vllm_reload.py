"""vLLM's own `reload_weights`: the sender writes a checkpoint, which the workers read as they do at their start."""

from typing import Any

from harness.worker.transports.disk import ON_DISK, offer, send
from harness.worker.transports.phases import Phases
from harness.worker.transports.vllm_calls import Told, flush, rpc

__all__ = ["ENGINE", "ON_DISK", "TOGETHER", "join", "leave", "offer", "send", "take"]

ENGINE = "vllm"
TOGETHER = False


async def join(adapter: Any, address: Told) -> Told:
    """An engine that started with made-up weights reads no others until it is told to."""
    await rpc(adapter, "update_config", overrides={"load_config": {"load_format": "auto"}})
    return {}


async def take(adapter: Any, address: Told, payload: None) -> dict[str, float]:
    phases = Phases()
    with phases.timed("load"):
        await rpc(adapter, "reload_weights", weights_path=address["path"])
    await flush(adapter, phases)
    return phases


async def leave(adapter: Any, address: Told) -> None:
    """Nothing was opened."""

"""The calls that vLLM's own ways of taking weights share, and what a trainer hands to its helpers."""

from collections.abc import Iterator, Sequence
from typing import Any

from harness.worker.flat import Slot, views
from harness.worker.transports.phases import Phases

Told = dict[str, Any]


async def rpc(adapter: Any, method: str, **kwargs: Any) -> list[Any]:
    """A method of every worker: all that vLLM's `LLM.…` and `AsyncLLM.…` of that name do; the answers by rank."""
    found: list[Any] = await adapter.call("collective_rpc", method, kwargs=kwargs)
    return found


def require(adapter: Any, backend: str) -> None:
    """Raises RuntimeError for an engine that was not started with this weight-transfer backend."""
    config = adapter.config.weight_transfer_config
    if config is None or config.backend != backend:
        has = "none" if config is None else config.backend
        raise RuntimeError(
            f"vLLM's way {backend!r} needs an engine started for it, this one has {has}: give "
            f"Options(native={{'vllm': {{'weight_transfer_config': {{'backend': {backend!r}}}}}}})"
        )


async def update(adapter: Any, info: Told) -> Phases:
    """One update as vLLM's documentation has it, then its prefix cache, which an update leaves as it is."""
    phases = Phases()
    with phases.timed("start"):
        await rpc(adapter, "start_weight_update")
    with phases.timed("load"):
        await rpc(adapter, "update_weights", update_info=info)
    with phases.timed("finalise"):
        await rpc(adapter, "finish_weight_update")
    await flush(adapter, phases)
    return phases


async def flush(adapter: Any, phases: Phases) -> None:
    """Raises RuntimeError when vLLM refuses, since requests are running."""
    with phases.timed("flush"):
        adapter.flushed(await adapter.call("reset_prefix_cache"))


async def shut_down(adapter: Any) -> None:
    """Let the workers' side go where vLLM can (from 0.28 on); an older one keeps it until the next `join`."""
    if hasattr(adapter.llm, "shutdown_weight_transfer_engine"):
        await rpc(adapter, "shutdown_weight_transfer_engine")


class Client:
    """What vLLM's trainer engines drive, without a wire: the last update is kept, and the engine's process makes the
    calls."""

    told: Told

    def init_weight_transfer_engine(self, init_info: Told) -> None:
        """`join` does it."""

    def start_weight_update(self) -> None:
        """`take` does it."""

    def update_weights(self, update_info: Told) -> None:
        self.told = update_info

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """`take` does it."""


def source(buffer: Any, slots: Sequence[Slot], dtype: Any) -> Any:
    """The weights as vLLM's trainer engines take them (from 0.28 on): a `WeightSource` over the buffer."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Views(WeightSource):  # type: ignore[misc]
        def metadata(self) -> list[Any]:
            return [ParamMeta(slot.name, dtype, slot.shape) for slot in slots]

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            return views(buffer, slots, dtype)

    return Views()

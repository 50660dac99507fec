"""The engines that rollbench drives, each behind the same protocol."""

import asyncio
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from harness.rollouts import Answer

Options = dict[str, Any]
Report = Callable[[int], None]  # told, at each output of a request, how many tokens of it are there

MODES = ("abort", "drain", "keep", "recompute")  # of a pause, see `Engine.pause`

ENGINES = {  # name: its class, imported only in the environment that has it
    "fake": "harness.worker.engines.fake:Fake",
    "sglang": "harness.worker.engines.sglang:SGLang",
    "vllm": "harness.worker.engines.vllm:VLLM",
}


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, the same words for every engine: always the whole distribution (no top-k, no top-p) and
    exactly as many tokens as asked, whatever end token comes. `stream`: every token is reported when it is there."""

    temperature: float = 1.0
    logprobs: bool = False
    stream: bool = False


class Answers(Protocol):
    """What requests are sent to."""

    async def answer(self, ids: list[int], count: int, sampling: Sampling) -> Answer:
        """Generate `count` tokens behind a prompt."""

    def preemptions(self) -> int:
        """How often a running request has lost its place since the start."""


class Engine(Answers, Protocol):
    """What a worker can ask of an engine. A call returns when its effect is complete on the device."""

    loop: asyncio.AbstractEventLoop  # on which `answer` must run

    def start(self, model: str, load_format: str, options: Options, device: str) -> Options:
        """Load the model; return the flags as the engine resolved them, with `vocab_size` and `max_model_len`.

        `options` are the neutral ones of `harness.scenario.Options`; `device` is `cpu` or `cuda`.
        """

    async def answer(self, ids: list[int], count: int, sampling: Sampling, report: Report = ...) -> Answer:
        """Generate `count` tokens behind a prompt; none, and marked so, when a pause aborted it."""

    def memory(self) -> dict[str, float]:
        """GiB by the engine's own counters, under its own names; empty where it has none."""

    def weights(self, request: Options, flush: bool) -> list[Any]:
        """Have every process that holds a part of the model answer a request (`harness.worker.receive`), and with
        `flush` forget the prefix cache behind it; their answers by rank."""

    def straight(self, wanted: bool) -> bool:
        """Have `weights` go past the engine's front from now on (`harness.worker.shortcut`), or no longer; whether it
        does, which it cannot where several processes hold the model."""

    def adapt(self, path: str) -> None:
        """Load a LoRA adapter from a folder in PEFT's format in place of the last one, on the device when this returns;
        all later requests go through it, and the prefix cache is empty. Needs the option `lora_rank`."""

    async def pause(self, mode: str) -> None:
        """Have nothing run, by one of MODES: what runs is thrown away (`abort`), is waited for (`drain`), stays with
        the KV cache that it has (`keep`), or stays with its tokens, whose KV cache is computed anew when it goes on, by
        the weights of then (`recompute`). Nobody asks for more until `resume`."""

    async def resume(self) -> None:
        """Let what stayed go on, and take requests again."""

    async def take(self, request: Options) -> list[Any]:
        """`weights` on the running loop, with nothing forgotten."""

    async def forget(self, running: bool) -> bool:
        """`flush` on the running loop, with `running` also of what paused requests have in the cache; False where the
        engine refuses."""

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A call of the engine's own front, by its name there, for ways of taking weights that are the engine's."""

    def sleep(self, released: dict[str, str]) -> None:
        """Give the device memory of these parts back and answer nothing until woken: `weights` (backed_up or
        discarded), `kv_cache` (discarded), `cuda_graphs` (released); no part at all pauses. No request may be running.
        Raises what the engine says where it cannot."""

    def wake(self, parts: list[str]) -> None:
        """Take the device memory of these parts again, none behind a pause; go on once all are there."""

    def flush(self) -> None:
        """Forget the prefix cache. Raises RuntimeError when the engine refuses."""

    def close(self) -> None:
        """End the engine and all processes it started."""


def unheard(count: int) -> None:
    """The report that nobody wants."""


def load(name: str) -> Engine:
    """The engine of that name, not started."""
    module, cls = ENGINES[name].split(":")
    engine: Engine = getattr(importlib.import_module(module), cls)()
    return engine

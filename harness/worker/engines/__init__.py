"""The engines that rollbench drives, each behind the same protocol."""

import importlib
from typing import Any, Protocol

from harness.rollouts import Prompts, Rollouts

Options = dict[str, Any]

ENGINES = {  # name: its class, imported only in the environment that has it
    "fake": "harness.worker.engines.fake:Fake",
    "sglang": "harness.worker.engines.sglang:SGLang",
    "vllm": "harness.worker.engines.vllm:VLLM",
}


class Engine(Protocol):
    """What a worker can ask of an engine. A call returns when its effect is complete on the device."""

    def start(self, model: str, load_format: str, options: Options, device: str) -> Options:
        """Load the model; return the flags as the engine resolved them, with `vocab_size` and `max_model_len`.

        `options` are the neutral ones of `harness.scenario.Options`; `device` is `cpu` or `cuda`.
        """

    def generate(self, prompts: Prompts, temperature: float, logprobs: bool) -> Rollouts:
        """Generate exactly as many tokens for each prompt as it asks for, whatever end token comes."""

    def flush(self) -> None:
        """Forget the prefix cache. Raises RuntimeError when the engine refuses."""

    def close(self) -> None:
        """End the engine and all processes it started."""


def load(name: str) -> Engine:
    """The engine of that name, not started."""
    module, cls = ENGINES[name].split(":")
    engine: Engine = getattr(importlib.import_module(module), cls)()
    return engine

"""Adapter sync: a LoRA adapter alone goes from a trainer's stand-in into the engine, proved against merged weights."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks import CPU, GPU, HALF, SEVEN
from harness.proof import prove_adapter
from harness.record import Certificate
from harness.scenario import Scenario

if TYPE_CHECKING:
    from harness.rig import Rig

PROVING = 1_000_000_000  # the step whose adapter proves a sync: none that was measured


@dataclass(frozen=True, kw_only=True)
class AdapterSync(Scenario):
    """The sender writes an adapter of the rank that the option `lora_rank` says into shared memory, in PEFT's format;
    the engine takes it in place of the last one, and is ready when it is on the device and the prefix cache is empty.
    The base of the weights is brought in once, before the first step."""

    shares = "weights"
    warmup: int = 3
    steps: int = 20

    def __post_init__(self) -> None:
        if not self.options.lora_rank:
            raise ValueError("an engine that takes adapters needs the option lora_rank")

    @property
    def steady(self) -> str:
        return "sync_latency"

    def step(self, rig: "Rig", index: int) -> dict[str, float]:
        link = rig.adapter_link()
        link.update(index)
        return link.sync()

    def finish(self, rig: "Rig") -> dict[str, Certificate]:
        return {"proof": prove_adapter(rig.adapter_link(), PROVING)}


TINY = AdapterSync(model="tiny-qwen3", options=replace(CPU, lora_rank=32), steps=10)
B05 = AdapterSync(model=HALF, gpus=1, options=replace(GPU, memory_fraction=0.4, lora_rank=32))

CASES = {"tiny-lora": TINY, "0.5B-lora": B05, "7B-lora": replace(B05, model=SEVEN)}

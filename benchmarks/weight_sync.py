"""Weight sync: new weights from a trainer's stand-in into the engine, over each transport, proved behind the last."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from benchmarks import CPU, GPU, HALF, SEVEN
from harness.record import Certificate
from harness.scenario import Scenario

if TYPE_CHECKING:
    from harness.rig import Rig

PROVING = 1_000_000_000  # the step whose weights prove a sync: none that was measured


@dataclass(frozen=True, kw_only=True)
class WeightSync(Scenario):
    """`how` the engine's process brings in what it was sent: `graph`, `foreach` and `copies` replay the copies that its
    own loader makes; `loader` is that loader. Over `disk` the engine reads a checkpoint."""

    shares = True
    transport: Literal["ipc", "shm", "disk"] = "ipc"
    how: Literal["graph", "foreach", "copies", "loader"] = "graph"
    warmup: int = 3
    steps: int = 20

    @property
    def steady(self) -> str:
        return "sync_latency"

    def step(self, rig: "Rig", index: int) -> dict[str, float]:
        link = rig.link(self.transport, self.how)
        link.update(index)
        return link.sync()

    def finish(self, rig: "Rig") -> dict[str, Certificate]:
        return {"proof": rig.link(self.transport, self.how).prove(PROVING)}


TINY = WeightSync(model="tiny-qwen3", options=CPU, transport="shm", how="copies", steps=10)
B05 = WeightSync(model=HALF, gpus=1, options=replace(GPU, memory_fraction=0.4))

CASES = {
    "tiny-shm": TINY,
    "tiny-shm-loader": replace(TINY, how="loader"),
    "tiny-disk": replace(TINY, transport="disk", how="loader"),
} | {
    f"{size}-{name}": case
    for size, base in (("0.5B", B05), ("7B", replace(B05, model=SEVEN)))
    for name, case in {
        "ipc": base,
        "ipc-foreach": replace(base, how="foreach"),
        "ipc-copies": replace(base, how="copies"),
        "ipc-loader": replace(base, how="loader"),
        "shm": replace(base, transport="shm"),
        "disk": replace(base, transport="disk", how="loader", steps=5),
    }.items()
}  # fmt: skip

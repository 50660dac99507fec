"""Weight sync: new weights from a trainer's stand-in into the engine, over each transport, proved behind the last."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from benchmarks import CPU, GPU, HALF, SEVEN
from harness import fresh
from harness.proof import prove
from harness.record import Certificate
from harness.scenario import Scenario

if TYPE_CHECKING:
    from harness.link import Link
    from harness.rig import Rig


@dataclass(frozen=True, kw_only=True)
class WeightSync(Scenario):
    """`how` the engine's processes bring in what they are sent: `graph`, `foreach` and `copies` replay the copies that
    the engine's own loader makes; `loader` is that loader. Over `disk` the engine reads a checkpoint.

    Of `senders` each holds its share of the rows of every tensor; `colocated`: on the engine's GPUs; `on_host`: in host
    memory, which shm shares as it is. `bucket`: MiB sent at once over nccl and gloo. `restart`: in a run's first
    pair the engine starts on the weights of the proof, as a checkpoint on disk.
    """

    shares = True
    transport: Literal["ipc", "nccl", "gloo", "shm", "disk"] = "ipc"
    how: Literal["graph", "foreach", "copies", "loader"] = "graph"
    senders: int = 1
    colocated: bool = True
    on_host: bool = False
    bucket: int = 64
    restart: bool = True
    warmup: int = 3
    steps: int = 20

    @property
    def steady(self) -> str:
        return "sync_latency"

    def prepare(self, rig: "Rig") -> None:
        if self.restart:
            fresh.prepare(rig)

    def link(self, rig: "Rig") -> "Link":
        fresh.look(rig)
        names = "senders", "colocated", "on_host", "bucket"
        return rig.link(self.transport, self.how, **{name: getattr(self, name) for name in names})

    def step(self, rig: "Rig", index: int) -> dict[str, float]:
        link = self.link(rig)
        link.update(index)
        return link.sync() | link.apart()

    def finish(self, rig: "Rig") -> dict[str, Certificate]:
        self.link(rig).learned()
        return {"proof": prove(self.link(rig), fresh.STEP)}


TINY = WeightSync(model="tiny-qwen3", options=CPU, transport="shm", how="copies", steps=10)
B05 = WeightSync(model=HALF, gpus=1, options=replace(GPU, memory_fraction=0.4))
TWO = replace(B05, gpus=2)
TP2 = replace(TWO, options=replace(B05.options, tensor_parallel=2))


def large(gpus: int) -> dict[str, WeightSync]:
    """70B over so many GPUs: shards on the engine's own GPUs, in host memory, and on the other half of the GPUs."""
    options = replace(
        GPU, tensor_parallel=gpus, memory_fraction=0.5 if gpus == 2 else 0.4, max_running=64, graph_batch=64
    )
    # The weights fit no disk beside the engine's environments.
    here = WeightSync(model="Llama-3-70B", gpus=gpus, options=options, senders=gpus, restart=False, steps=10)
    half = replace(options, tensor_parallel=gpus // 2, memory_fraction=0.8)
    apart = replace(here, options=half, senders=gpus // 2, transport="nccl", colocated=False)
    return {
        f"70B-tp{gpus}-ipc-sharded": here,
        f"70B-tp{gpus}-shm-host": replace(here, transport="shm", senders=1, on_host=True, steps=5),
        **({f"70B-tp{gpus // 2}-nccl-sharded": apart} if gpus > 2 else {}),
    }


CASES = {
    "tiny-shm": TINY,
    "tiny-shm-host": replace(TINY, on_host=True),
    "tiny-shm-loader": replace(TINY, how="loader"),
    "tiny-gloo": replace(TINY, transport="gloo", bucket=4),
    "tiny-gloo-sharded": replace(TINY, transport="gloo", senders=2, bucket=4),
    "tiny-disk": replace(TINY, transport="disk", how="loader"),
} | {
    f"{size}-{name}": replace(case, model=model)
    for size, model in (("0.5B", HALF), ("7B", SEVEN))
    for name, case in {
        "ipc": B05,
        "ipc-foreach": replace(B05, how="foreach"),
        "ipc-copies": replace(B05, how="copies"),
        "ipc-loader": replace(B05, how="loader"),
        "shm": replace(B05, transport="shm"),
        "shm-host": replace(B05, transport="shm", on_host=True),
        "gloo": replace(B05, transport="gloo", steps=5),
        "disk": replace(B05, transport="disk", how="loader", steps=5),
        "nccl": replace(TWO, transport="nccl", colocated=False),
        "ipc-nvlink": replace(TWO, colocated=False),
        "tp2-ipc": TP2,
        "tp2-ipc-sharded": replace(TP2, senders=2),
    }.items()
} | {
    "8B-ipc": replace(B05, model="Llama-3-8B"),
    "30B-A3B-tp2-ipc-sharded": replace(TP2, model="Qwen3-30B-A3B", senders=2, restart=False),
} | large(2) | large(8)  # fmt: skip

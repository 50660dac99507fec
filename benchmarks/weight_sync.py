"""Weight sync: new weights from a trainer's stand-in into the engine, over each transport, proved behind the last."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from benchmarks import CPU, GPU, HALF, SEVEN, SEVENTY
from harness import fresh, speed
from harness.proof import prove
from harness.record import Certificate
from harness.scenario import Scenario
from harness.worker import transports

if TYPE_CHECKING:
    from harness.link import Link
    from harness.rig import Rig

OF_OURS = ("how", "senders", "bucket", "straight")  # parameters that an engine's own way has no use for

Transport = Literal[
    "ipc", "nccl", "gloo", "shm", "disk",
    "vllm_ipc", "vllm_nccl", "vllm_reload", "sglang_tensor", "sglang_bucket", "sglang_distributed", "sglang_disk",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WeightSync(Scenario):
    """`how` the engine's processes bring in what they are sent: `graph`, `foreach` and `copies` replay the copies that
    the engine's own loader makes; `loader` is that loader. Over `disk` the engine reads a checkpoint. A transport that
    has an engine's name is that engine's own way of taking weights, and runs on that engine alone.

    Of `senders` each holds its share of the rows of every tensor; `colocated`: on the engine's GPUs; `on_host`: in host
    memory, which shm shares as it is. `bucket`: MiB sent at once over nccl and gloo. `merged_rank`: the trainer trains
    a LoRA adapter of that rank and merges it into the weights before it sends them whole (0: it trains all of them).
    `straight`: the engine's processes are asked past its front, where one of them holds all of the model.
    `restart`: in a run's first pair the engine starts on the weights of the proof, as a checkpoint on disk.
    """

    shares = "weights"
    transport: Transport = "ipc"
    how: Literal["auto", "graph", "foreach", "copies", "loader"] = "graph"
    senders: int = 1
    colocated: bool = True
    on_host: bool = False
    bucket: int = 64
    merged_rank: int = 0
    straight: bool = True
    restart: bool = True
    warmup: int = 3
    steps: int = 20

    def __post_init__(self) -> None:
        """vLLM's weight transfer is an option of its start."""
        if backend := getattr(transports.load(self.transport), "BACKEND", ""):
            own = {**self.options.native.get("vllm", {}), "weight_transfer_config": {"backend": backend}}
            object.__setattr__(self, "options", replace(self.options, native={**self.options.native, "vllm": own}))

    @property
    def engines(self) -> tuple[str, ...]:
        own = getattr(transports.load(self.transport), "ENGINE", "")
        return (own,) if own else ()

    def params(self) -> dict[str, Any]:
        unused = OF_OURS if self.engines else ()
        return {name: value for name, value in super().params().items() if name not in unused}

    @property
    def steady(self) -> str:
        return "sync_latency"

    def prepare(self, rig: "Rig") -> None:
        if self.restart:
            fresh.prepare(rig)

    def link(self, rig: "Rig") -> "Link":
        fresh.look(rig)
        names = "senders", "colocated", "on_host", "bucket", "merged_rank", "straight"
        return rig.link(self.transport, self.how, **{name: getattr(self, name) for name in names})

    def step(self, rig: "Rig", index: int) -> dict[str, float]:
        if "speed" not in rig.facts:
            rig.facts["speed"] = speed.rounds(rig)
        link = self.link(rig)
        return link.update(index) | link.sync() | link.apart()

    def finish(self, rig: "Rig") -> dict[str, Certificate]:
        self.link(rig).learned()
        kept = speed.kept(rig, rig.facts["speed"])
        return {"speed": kept, "proof": prove(self.link(rig), fresh.STEP)}


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
    here = WeightSync(model=SEVENTY, gpus=gpus, options=options, senders=gpus, restart=False, steps=10)
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
    "tiny-shm-called": replace(TINY, straight=False),
    "tiny-shm-loader": replace(TINY, how="loader"),
    "tiny-gloo": replace(TINY, transport="gloo", bucket=4),
    "tiny-gloo-sharded": replace(TINY, transport="gloo", senders=2, bucket=4),
    "tiny-disk": replace(TINY, transport="disk", how="loader"),
    "tiny-lora-merged": replace(TINY, merged_rank=32),
    "tiny-own-vllm-reload": replace(TINY, transport="vllm_reload"),
    "tiny-own-sglang-tensor": replace(TINY, transport="sglang_tensor"),
    "tiny-own-sglang-bucket": replace(TINY, transport="sglang_bucket"),
    "tiny-own-sglang-distributed": replace(TINY, transport="sglang_distributed"),
    "tiny-own-sglang-disk": replace(TINY, transport="sglang_disk"),
} | {
    f"{size}-{name}": replace(case, model=model)
    for size, model in (("0.5B", HALF), ("7B", SEVEN))
    for name, case in {
        "ipc": B05,
        "ipc-called": replace(B05, straight=False),
        "ipc-foreach": replace(B05, how="foreach"),
        "ipc-copies": replace(B05, how="copies"),
        "ipc-loader": replace(B05, how="loader"),
        "shm": replace(B05, transport="shm"),
        "shm-host": replace(B05, transport="shm", on_host=True),
        "gloo": replace(B05, transport="gloo", steps=5),
        "disk": replace(B05, transport="disk", how="loader", steps=5),
        "lora-merged": replace(B05, merged_rank=32),
        "own-vllm-ipc": replace(B05, transport="vllm_ipc"),
        "own-vllm-reload": replace(B05, transport="vllm_reload", steps=5),
        "own-sglang-tensor": replace(B05, transport="sglang_tensor"),
        "own-sglang-bucket": replace(B05, transport="sglang_bucket"),
        "own-sglang-disk": replace(B05, transport="sglang_disk", steps=5),
        "nccl": replace(TWO, transport="nccl", colocated=False),
        "ipc-nvlink": replace(TWO, colocated=False),
        "own-vllm-nccl": replace(TWO, transport="vllm_nccl", colocated=False),
        "own-sglang-distributed": replace(TWO, transport="sglang_distributed", colocated=False),
        "tp2-ipc": TP2,
        "tp2-ipc-sharded": replace(TP2, senders=2),
    }.items()
} | {
    "8B-ipc": replace(B05, model="Llama-3-8B"),
    "30B-A3B-tp2-ipc-sharded": replace(TP2, model="Qwen3-30B-A3B", senders=2, restart=False),
} | large(2) | large(8)  # fmt: skip

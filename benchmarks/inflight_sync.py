"""Weight sync with requests in flight: new weights come when half of a batch's tokens are out, and what runs is thrown
away and asked for again, waited for, or kept. It costs a pause, a time without a token, and what is lost."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from benchmarks import CPU, GPU, HALF, SEVEN
from harness import fresh, inflight
from harness.audit import figures
from harness.inflight import Interruption, Mode, Sync
from harness.proof import prove
from harness.record import Certificate
from harness.rollouts import Requests
from harness.scenario import Scenario
from harness.workload import independent

if TYPE_CHECKING:
    from harness.rig import Rig


@dataclass(frozen=True, kw_only=True)
class InflightSync(Scenario):
    """`prompts` that share nothing, all at once, interrupted when `after` of their tokens are out. `mode`: what becomes
    of those that run (`harness.worker.engines.Engine.pause`). `transport` and `how` as in weight_sync."""

    shares = "weights"
    mode: Mode
    after: float = 0.5
    prompts: int = 256
    input_tokens: int = 128
    output_tokens: int = 512
    transport: Literal["ipc", "shm", "disk"] = "ipc"
    how: Literal["auto", "graph", "foreach", "copies", "loader"] = "graph"
    seed: int = 0

    def requests(self, index: int, vocab: int) -> Requests:
        lengths = [self.input_tokens] * self.prompts, [self.output_tokens] * self.prompts
        return independent((self.seed, index), *lengths, vocab)

    def step(self, rig: "Rig", index: int) -> dict[str, float]:
        link, requests = rig.link(self.transport, self.how), self.requests(index, rig.vocabulary)
        rig.flush()
        link.update(index)
        out, sync = inflight.generate(rig, link, requests, Interruption(self.mode, self.after), temperature=1.0)
        rig.facts.setdefault("syncs", []).append({"step": index} | sync.facts)
        return figures(requests, out) | sync.figures()

    def finish(self, rig: "Rig") -> dict[str, Certificate]:
        link, requests = rig.link(self.transport, self.how), self.requests(fresh.STEP, rig.vocabulary)
        found = [{name: value for name, value in facts.items() if name != "step"} for facts in rig.facts["syncs"]]
        link.learned()
        rig.flush()
        return {
            "interrupted": inflight.certificate((Sync(**facts) for facts in found), self.options.prefix_caching),
            "resumed": inflight.prove(rig, link, fresh.STEP - 1, requests, Interruption(self.mode, self.after)),
            "proof": prove(link, fresh.STEP),
        }


def modes(base: InflightSync) -> dict[str, InflightSync]:
    """A case for each mode; engines that keep the prompts' cache of the old weights recompute all without one."""
    bare = replace(base, mode="recompute", options=replace(base.options, prefix_caching=False))
    every: tuple[Mode, ...] = ("abort", "drain", "keep", "recompute")
    return {mode: replace(base, mode=mode) for mode in every} | {"recompute-no-prefix-caching": bare}


# The engine's core apart, as on a GPU: there only has vLLM a pause of its own.
TINY = InflightSync(
    model="tiny-qwen3", options=replace(CPU, multiprocessing=True), mode="keep", prompts=16, output_tokens=128,
    transport="shm", how="copies",
)  # fmt: skip
B05 = InflightSync(model=HALF, gpus=1, options=replace(GPU, memory_fraction=0.4), mode="keep")

CASES = {
    f"{size}-{name}": case
    for size, base in (("tiny", TINY), ("0.5B", B05), ("7B", replace(B05, model=SEVEN)))
    for name, case in modes(base).items()
} | {
    "tiny-keep-no-multiprocessing": replace(TINY, options=CPU),
}  # fmt: skip

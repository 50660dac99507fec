"""Whole RL steps: the engine answers, a trainer learns, and the weights go back into the engine, phase by phase."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks import CPU, GPU, HALF, SEVENTY
from harness import efficiency, fresh, machine, rates, stats
from harness.audit import figures
from harness.crew import Crew, Lesson
from harness.metrics import FROM_TRAINER
from harness.proof import prove
from harness.record import Certificate
from harness.rig import GIB
from harness.rollouts import Requests
from harness.scenario import Scenario

if TYPE_CHECKING:
    from harness.rig import Rig

HELD_OUT, AHEAD, SEEDS = 3_000_000, 4_000_000, 10_000_000  # what is asked in a step follows from its number
MISMATCH = {"float32": 1e-3, "bfloat16": 0.05}  # nats: mean difference of log-probabilities, engine and trainer
PARTS = {"weights": "discarded", "kv_cache": "discarded"}  # of the engine's memory, while the trainer learns
JUDGED = 64  # prompts whose greedy answers tell what was learnt

Figures = dict[str, float]
Between = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class RLStep(Scenario):
    """`prompts`, `samples` answers to each of `output_tokens` a turn, learnt as `lesson` says by a trainer of `ranks`.

    Cases of equal engine settings share a launch: each begins with the weights of its own trainer.

    colocated: the trainer is on the engine's GPUs; with `sleeps` the engine gives its memory back while the trainer
    learns, and the trainer moves its own to the host while the engine answers. lag: 0, each step learns from what the
    newest weights said; 1, it is learnt while the engine answers the next one with the weights of before. goal: the
    reward of held-out prompts that must be reached (0: none).
    """

    shares = "steps"

    lesson: Lesson = field(default_factory=Lesson)
    prompts: int = 32
    samples: int = 8
    input_tokens: int = 0
    output_tokens: int = 8
    transport: Literal["ipc", "nccl", "gloo", "shm", "disk"] = "ipc"
    how: Literal["auto", "graph", "foreach", "copies", "loader"] = "auto"
    ranks: int = 1
    colocated: bool = True
    sleeps: bool = True
    lag: Literal[0, 1] = 0
    goal: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lag and self.sleeps:
            raise ValueError("an engine that answers while the trainer learns cannot sleep: lag 1 needs sleeps=False")
        rank = 0 if self.lesson.settings.get("merged", True) else self.lesson.settings["lora"]
        object.__setattr__(self, "options", replace(self.options, sleep=self.sleeps, lora_rank=rank))

    @property
    def again(self) -> bool:
        return False  # what was learnt stays

    def crew(self, rig: "Rig") -> Crew:
        """The trainer; when it joins its weights go in, so that both begin alike."""
        joined = "curve" in rig.facts
        crew = rig.crew(self.transport, self.how, self.lesson, senders=self.ranks, colocated=self.colocated)
        if not joined:
            rig.facts |= {"curve": [], "mismatch": []}
            crew.sync()
            rig.facts["before"] = fresh.greedy(rig).logprobs_BT[:, 0].tolist()
            if self.sleeps:
                crew.offload()
        return crew

    def step(self, rig: "Rig", index: int) -> Figures:
        crew, number, start = self.crew(rig), index + self.seed * SEEDS, time.perf_counter()
        answered, learnt, phases = (self._one_off if self.lag else self._in_turn)(rig, crew, number)
        phases["step_time"] = time.perf_counter() - start
        phases |= {f"phase_{name[:-2]}": seconds for name, seconds in learnt.items() if name.endswith("_s")}
        other = phases["step_time"] - sum(phases[name] for name in phases if name.startswith("phase_"))
        rig.facts["curve"].append(round(learnt["reward"], 4))
        rig.facts["mismatch"].append(round(learnt["mismatch_mean"], 8))
        return (
            phases
            | {name: learnt[name] for name in FROM_TRAINER if name in learnt}
            | {f"memory_{name[:-6]}": size / GIB for name, size in learnt.items() if name.endswith("_bytes")}
            | {"bubble_share": answered["bubble_share"], "lag": float(self.lag)}
            | {"phase_hidden": max(-other, 0.0), "phase_other": max(other, 0.0)}
            | {"rl_throughput": answered["tokens"] / phases["step_time"] / max(self.gpus, 1)}
            | self._mfu(learnt.get("flops", 0.0), phases["phase_forward_backward"])
        )

    def _in_turn(self, rig: "Rig", crew: Crew, number: int) -> tuple[Figures, Figures, Figures]:
        """Answer, learn, sync; what came of answering and of learning, and seconds of the other phases."""
        answered, phases = self._answered(crew, number, self._begun(crew, number)), Figures()
        if self.sleeps:
            phases |= {"phase_sleep": rig.sleep(PARTS), "phase_onload": crew.onload()}
        crew.post_learn(number)
        learnt = crew.learnt()
        if self.sleeps:
            phases |= {"phase_offload": crew.offload(), "phase_wake": rig.wake(["weights"])}
        phases["phase_sync"] = crew.sync()["sync_latency"]
        if self.sleeps:
            phases["phase_wake"] += rig.wake(["kv_cache"])
        return answered, learnt, phases | {"phase_rollout": answered["seconds"]}

    def _one_off(self, rig: "Rig", crew: Crew, number: int) -> tuple[Figures, Figures, Figures]:
        """Learn what was answered in the step before, while the next one is answered; then sync."""
        if "ahead" not in rig.facts:
            self._answered(crew, number, self._begun(crew, number))
        learnt, ahead = Figures(), AHEAD + number
        requests = self._begun(crew, ahead)
        crew.post_learn(rig.facts.get("ahead", number))
        rig.facts["ahead"] = ahead
        answered = self._answered(crew, ahead, requests, lambda: learnt.update(crew.learnt()))
        return answered, learnt, {"phase_rollout": answered["seconds"], "phase_sync": crew.sync()["sync_latency"]}

    def _begun(self, crew: Crew, number: int, **changed: Any) -> Requests | None:
        asked = {"prompts": self.prompts, "samples": self.samples, "input_tokens": self.input_tokens}
        return crew.begin(number, **asked | {"limit": self.output_tokens} | changed)

    def _answered(self, crew: Crew, number: int, begun: Requests | None, between: Between = lambda: None) -> Figures:
        """A step's conversations: what they took, and what they are worth to a trainer."""
        turns = crew.answer(number, begun, 1.0, between)
        prompt, output = (
            np.concatenate([getattr(out, f"{name}_B") for _, out in turns]) for name in ("prompt", "output")
        )
        return {
            "seconds": sum(float(out.seconds) for _, out in turns),
            "tokens": float(prompt.sum() + output.sum()),
            "bubble_share": figures(*turns[0])["bubble_share"],
        }

    def _mfu(self, flops: float, seconds: float) -> Figures:
        peak = rates.peak(next(iter(machine.gpu_names()), "")) if self.gpus else None
        return {"trainer_mfu": efficiency.mfu(flops, seconds, peak.tflop_s, self.ranks)} if peak and flops else {}

    def once(self, rig: "Rig") -> Figures:
        return {"reward_held_out": rig.facts["held_out"]}

    def finish(self, rig: "Rig") -> dict[str, Certificate]:
        crew = self.crew(rig)
        crew.answer(HELD_OUT, self._begun(crew, HELD_OUT, prompts=JUDGED, samples=1, held_out=True), 0.0)
        rig.facts["held_out"] = reached = crew.score(HELD_OUT)
        found = {"mismatch": self._mismatch(rig.facts["mismatch"])}
        if self.goal:
            told = f"{reached:.3f} on held-out prompts, {self.goal} is the goal"
            found["learnt"] = Certificate(ok=reached >= self.goal, figure=reached, reason=told)
        if self.lesson.settings.get("rate") == 0:
            found["still"] = self._still(rig)
        rig.facts.pop("before")
        return found | {"proof": self._agree(crew) if self.options.lora_rank else prove(crew, fresh.STEP)}

    def _agree(self, crew: Crew) -> Certificate:
        """An adapter's proof: a change of it moves the engine away from the trainer until it is synced."""
        apart, allowed = Figures(), MISMATCH[self.options.dtype]
        crew.update(fresh.STEP)
        for number, when in enumerate(("before", "behind")):
            if when == "behind":
                crew.sync()
            crew.answer(HELD_OUT + 1 + number, self._begun(crew, HELD_OUT + 1 + number, samples=1), 1.0)
            apart[when] = crew.agree(HELD_OUT + 1 + number)["mean"]
        reason = (
            "log-probabilities {before:.1e} nats apart before the sync of a changed adapter, {behind:.1e} behind it"
        )
        ok = apart["behind"] <= allowed < apart["before"]
        return Certificate(ok=ok, figure=apart["behind"], reason=reason.format(**apart))

    def _mismatch(self, means: list[float]) -> Certificate:
        """Whether engine and trainer agree, at the end as at the beginning."""
        if self.lag:
            reason = f"{means[-1]:.1e} nats in the last step, with what was learnt since the answers"
            return Certificate(ok=None, figure=means[-1], reason=reason)
        allowed = MISMATCH[self.options.dtype]
        change, p = stats.drift(means) if len(means) > 2 else (0.0, 1.0)
        grows = p < 0.01 and change > 1 and means[-1] > allowed / 10
        reason = (
            f"log-probabilities {max(means):.1e} nats apart on average in the worst step, {means[-1]:.1e} in the last"
        )
        return Certificate(ok=max(means) <= allowed and not grows, figure=max(means), reason=reason)

    def _still(self, rig: "Rig") -> Certificate:
        """Nothing was learnt at a rate of 0: outputs are those of before."""
        apart = float(np.abs(np.array(rig.facts["before"]) - fresh.greedy(rig).logprobs_BT[:, 0]).max())
        allowed = MISMATCH[self.options.dtype]
        return Certificate(ok=apart <= allowed, figure=apart, reason=f"log-probabilities {apart:.1e} from those before")


WORDS = {"shortest": 3, "longest": 3}
SMALL = {"rate": 3e-4, "budget": 4096, "minibatches": 2}
START = {"steps": 20, "prompts": 64, "rate": 1e-3}  # behind it about half of the symbols are right
TINY = RLStep(
    model="tiny-rl", options=replace(CPU, max_running=512, kv_tokens=20_000), transport="shm", sleeps=False,
    lesson=Lesson(settings=SMALL, options=WORDS, changes={"kl": 0.0}, warm_up=START),
    output_tokens=5, steps=8,
)  # fmt: skip
ONE_HALF = "Qwen2.5-1.5B"
LARGE = {"rate": 1e-6, "compiled": True, "budget": 8192, "chunk": 4096}
B05 = RLStep(
    model=HALF, gpus=1, options=replace(GPU, memory_fraction=0.4), prompts=64, samples=8, input_tokens=128,
    output_tokens=512, lesson=Lesson(settings=LARGE), steps=3,
)  # fmt: skip
APART = replace(B05, gpus=2, transport="nccl", colocated=False, sleeps=False)
LEARN = ("grpo", "ppo", "rloo", "dapo")
ALGORITHMS = ("grpo", "dr_grpo", "ppo", "rloo", "dapo", "reinforce_pp")


def learning(case: RLStep, **changes: Any) -> RLStep:
    return replace(case, lesson=replace(case.lesson, **changes))


CASES = {
    f"tiny-{name}": learning(TINY, algorithm=name) for name in ALGORITHMS
} | {
    "tiny-grpo-lora": learning(TINY, settings=SMALL | {"lora": 8}),
    "tiny-grpo-adapter": learning(TINY, settings=SMALL | {"lora": 8, "merged": False}),
    "tiny-grpo-off": replace(TINY, lag=1),
    "tiny-grpo-ranks": replace(TINY, ranks=2),
    **{f"tiny-{name}-learns": replace(learning(TINY, algorithm=name), goal=0.9, steps=70) for name in LEARN},
    "tiny-grpo-still": learning(TINY, settings=SMALL | {"rate": 0}),
    "tiny-grpo-tool": learning(replace(TINY, output_tokens=24), task="calculator", options={}, warm_up={}),
} | {
    f"{size}-{name}": learning(replace(B05, model=model), algorithm=name)
    for size, model in (("0.5B", HALF), ("1.5B", ONE_HALF))
    for name in ALGORITHMS
} | {
    # Two models of 1.5B learn there: what lies between their layers' inputs fits no card beside them.
    "1.5B-ppo": learning(replace(B05, model=ONE_HALF), algorithm="ppo", settings=LARGE | {"checkpointing": True}),
    "0.5B-grpo-lora": learning(B05, settings=LARGE | {"rate": 1e-5, "lora": 32}),
    "0.5B-grpo-adapter": learning(B05, settings=LARGE | {"rate": 1e-5, "lora": 32, "merged": False}),
    "0.5B-grpo-awake": replace(B05, sleeps=False),
    "0.5B-grpo-apart": APART,
    "0.5B-grpo-apart-off": replace(APART, lag=1),
    "0.5B-grpo-ranks": replace(B05, gpus=2, ranks=2, options=replace(B05.options, tensor_parallel=2)),
    # Masters and moments of 70B fill eight GPUs of 139 GiB and their host: an adapter learns.
    "70B-grpo-lora": learning(
        replace(B05, model=SEVENTY, gpus=8, ranks=8, options=replace(B05.options, tensor_parallel=8)),
        settings=LARGE | {"rate": 1e-5, "lora": 32, "checkpointing": True, "layerwise": True},
    ),
}  # fmt: skip

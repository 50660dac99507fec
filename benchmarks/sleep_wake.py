"""Sleep and wake: how fast an engine gives its device memory back and takes it again, how much, and whether it then
answers as before. In RL training the trainer uses the same GPU while the engine sleeps."""

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks import CPU, GPU, HALF, SEVEN, SEVENTY
from harness import machine, models, stats
from harness.errors import UserError
from harness.measure import DTYPE_BYTES
from harness.record import Certificate
from harness.rig import GIB
from harness.rollouts import Requests, Rollouts
from harness.scenario import Scenario
from harness.workload import independent

if TYPE_CHECKING:
    from harness.link import Link
    from harness.rig import Rig

Cycle = dict[str, Any]

REFUSALS = (  # what the engines say where they cannot do it at all
    r"Sleep mode is not supported on current platform",
    r"\w+\.sleep\(\) got an unexpected keyword argument 'tags'",
    r"'\w+' object has no attribute 'release_kv_cache_memory'",
    r"Selective discard is not supported on \w+|does not support selective discard",
    r"got an unexpected keyword argument 'sleep_mode_offload_cudagraph'",
    r"error while loading shared libraries: libcuda\.so\.1: cannot open shared object file[^\n]*",
    r"the fake engine holds no memory of a device",
)
# The batch whose outputs must not change: one prompt at a time, so that sums are always in the same order; longer than
# two blocks of a prefix cache, so that one which outlives its memory shows.
SEED, PROMPTS, INPUT, OUTPUT = 78, 8, 300, 8
PARTED, GAP = 2, 0.02  # of these prompts may take another token, where log-probabilities up to there are this near
LEAST_CACHE, LEAST = 1.0, 0.01  # GiB that a discarded cache frees at least, and anything else that is released
LEAK, LEAK_P, LEAST_CYCLES = 1 / 1024, 0.01, 10  # GiB a cycle that may stay, when the slope is no accident


@dataclass(frozen=True, kw_only=True)
class SleepWake(Scenario):
    """A step is a cycle: a batch, sleep, wake, the same batch. What becomes of each part of the memory:

    - `weights` backed_up, `kv_cache` discarded: vLLM's level 1; SGLang releases `weights` and `kv_cache`, started with
      enable_weights_cpu_backup.
    - `weights` discarded, `kv_cache` discarded: vLLM's level 2; SGLang releases the same without a backup. On both a
      sync from `senders`, each with its share, over `transport` and brought in by `how`, must follow.
    - `weights` kept, `kv_cache` discarded: vLLM's release_kv_cache_memory (0.26 has none); SGLang releases `kv_cache`.
    - `weights` discarded, `kv_cache` kept: SGLang releases `weights`; vLLM's levels cannot.
    - `cuda_graphs` released: SGLang releases `cuda_graph` too; vLLM backs them up with sleep_mode_offload_cudagraph
      (0.26 has none).
    - all kept: nothing is freed, the engine only holds its requests: vLLM's level 0, SGLang's pause in place.

    `staged` wakes the weights, syncs them, and then wakes the rest; else all wakes at once, then the sync.

    Cases of equal engine settings share a launch; what its first sleep alone can tell is a sample of the case that
    begins it.
    """

    shares = "memory"

    weights: Literal["kept", "backed_up", "discarded"] = "backed_up"
    kv_cache: Literal["kept", "discarded"] = "discarded"
    cuda_graphs: Literal["kept", "released"] = "kept"
    staged: bool = False
    transport: Literal["ipc", "shm", "disk"] = "ipc"
    how: Literal["auto", "graph", "foreach", "copies", "loader"] = "graph"
    senders: int = 1
    prompts: int = 128
    input_tokens: int = 128
    output_tokens: int = 64
    seed: int = 0
    steps: int = LEAST_CYCLES

    def __post_init__(self) -> None:
        """The engine's options follow from what is to be released."""
        if self.staged and not {"weights", "kv_cache"} <= self.released.keys():
            raise ValueError("staged waking needs both the weights and the KV cache released")
        native = dict(self.options.native)
        if self.cuda_graphs == "released":
            native["vllm"] = {**native.get("vllm", {}), "sleep_mode_offload_cudagraph": True}
        sleep: Any = "backed_up" if self.weights == "backed_up" else bool(self.released)
        object.__setattr__(self, "options", replace(self.options, sleep=sleep, native=native))

    @property
    def steady(self) -> str:
        return "sleep_cycle"

    def params(self) -> dict[str, Any]:
        """Without how a sync goes where there is none."""
        unused = () if self.weights == "discarded" else ("transport", "how")
        return {name: value for name, value in super().params().items() if name not in unused}

    @property
    def released(self) -> dict[str, str]:
        """The parts that do not stay, and what becomes of them."""
        parts = {"weights": self.weights, "kv_cache": self.kv_cache, "cuda_graphs": self.cuda_graphs}
        return {part: how for part, how in parts.items() if how != "kept"}

    def step(self, rig: "Rig", index: int) -> dict[str, float]:
        link = self._link(rig)
        lengths = [self.input_tokens] * self.prompts, [self.output_tokens] * self.prompts
        requests = independent((self.seed, index), *lengths, rig.vocabulary)
        speed_before, outputs_before = _throughput(rig, requests), _outputs(rig)
        host, used = machine.available_gib(), self._used(rig)
        slept = rig.sleep(self.released)
        asleep, host_asleep = self._used(rig), machine.available_gib()
        woken, sync, waking = self._wake(rig, link)
        awake = self._used(rig)
        if self.kv_cache == "kept":
            rig.flush()  # what the cache gives is computed in another order
        outputs = _outputs(rig)
        speed = _throughput(rig, requests)
        parted, gap = differences(outputs_before, outputs)
        rig.facts.setdefault("cycles", []).append({
            "sleep": round(slept, 6), "wake": round(woken, 6), "used": round(used, 4), "asleep": round(asleep, 4),
            "awake": round(awake, 4), "host": round(host, 3), "host_asleep": round(host_asleep, 3), "parted": parted,
            "gap": gap, "stale": int(outputs.cached_B.sum()),
        })  # fmt: skip
        memory = {"memory_asleep": asleep, "memory_awake": awake, "memory_waking": waking} if self.gpus else {}
        return memory | sync | {
            "sleep_time": slept,
            "wake_time": woken,
            "sleep_cycle": slept + woken + sync.get("sync_latency", 0.0),
            "output_throughput": speed,
            "throughput_kept": speed / speed_before,
        }  # fmt: skip

    def _link(self, rig: "Rig") -> "Link | None":
        """The sender that brings discarded weights back. When it joins, its weights go in, and what that took on the
        device is no longer counted."""
        if self.weights != "discarded":
            return None
        if "sender_gib" in rig.facts:
            return rig.link(self.transport, self.how, senders=self.senders)
        before = rig.device_gib(self.gpus)
        link = rig.link(self.transport, self.how, senders=self.senders)
        link.update(0)
        link.sync()
        rig.facts |= {"before_gib": round(before, 4), "sender_gib": round(rig.device_gib(self.gpus) - before, 4)}
        return link

    def _used(self, rig: "Rig") -> float:
        return rig.device_gib(self.gpus) - float(rig.facts.get("sender_gib", 0))

    def _wake(self, rig: "Rig", link: "Link | None") -> tuple[float, dict[str, float], float]:
        """Seconds of waking, figures of the sync, and the most memory in use until the weights were in place."""
        parts = list(self.released)
        first = ["weights"] if self.staged else parts
        with machine.Watch() as watch:
            seconds = rig.wake(first)
            sync = {"sync_latency": link.sync()["sync_latency"]} if link else {}
        if rest := [part for part in parts if part not in first]:
            seconds += rig.wake(rest)
        return seconds, sync, rig.above_baseline(watch.most, self.gpus) - float(rig.facts.get("sender_gib", 0))

    def once(self, rig: "Rig") -> dict[str, float]:
        cycles: list[Cycle] = rig.facts["cycles"]
        first, last, found = cycles[0], cycles[-1], dict[str, float]()
        if rig.slept == len(cycles):
            found = {"sleep_first": first["sleep"], "wake_first": first["wake"]}
            found |= {"host_taken": first["host"] - last["host_asleep"]} if self.released else {}
        if self.gpus:
            found["memory_slope"] = slope([cycle["awake"] for cycle in cycles[-self.steps :]])
        return found

    def finish(self, rig: "Rig") -> dict[str, Certificate]:
        cycles: list[Cycle] = rig.facts["cycles"]
        measured = cycles[-self.steps :]
        stale = 0 if self.kv_cache == "kept" else sum(cycle["stale"] for cycle in cycles)
        return {"outputs": _same(cycles, stale), "freed": self._freed(measured), "leak": self._leak(measured)}

    def _freed(self, cycles: list[Cycle]) -> Certificate:
        """Whether as much memory was freed as the parts that were released take at least."""
        if not self.released:
            return Certificate(ok=None, figure=0, reason="nothing was to be freed")
        if not self.gpus:
            return Certificate(ok=False, figure=0, reason="no GPU whose memory could be freed")
        freed = min(cycle["used"] - cycle["asleep"] for cycle in cycles)
        least = LEAST + LEAST_CACHE * ("kv_cache" in self.released)
        if "weights" in self.released:
            least += 0.9 * weights_gib(self.model, self.options.dtype)
        reason = f"{freed:.2f} GiB of device memory freed, {', '.join(self.released)} must free {least:.2f}"
        return Certificate(ok=freed >= least, figure=round(freed, 3), reason=reason)

    def _leak(self, cycles: list[Cycle]) -> Certificate:
        """Whether device memory in use, asleep and awake, stays the same from cycle to cycle."""
        if not self.gpus or len(cycles) < LEAST_CYCLES:
            reason = f"{len(cycles)} cycles, {LEAST_CYCLES} needed" if self.gpus else "no GPU"
            return Certificate(ok=None, figure=0, reason=reason)
        seen = {name: [cycle[name] for cycle in cycles] for name in ("asleep", "awake")}
        grown = {name: (slope(values), stats.drift(values)[1]) for name, values in seen.items()}
        told = ", ".join(f"{mib * 1024:+.2f} MiB a cycle {name} (p {p:.2f})" for name, (mib, p) in grown.items())
        ok = all(gib <= LEAK or p > LEAK_P for gib, p in grown.values())
        return Certificate(ok=ok, figure=max(gib for gib, _ in grown.values()), reason=told)

    def refusal(self, text: str) -> str | None:
        return next((found[0] for words in REFUSALS if (found := re.search(words, text))), None)


def _throughput(rig: "Rig", requests: Requests) -> float:
    """Generated tokens a second, from a cold prefix cache."""
    rig.flush()
    out = rig.generate(requests, temperature=1.0)
    return int(out.output_B.sum()) / float(out.seconds)


def _outputs(rig: "Rig") -> Rollouts:
    """What the engine answers to a fixed batch, with what its prefix cache holds."""
    requests = independent((SEED,), [INPUT] * PROMPTS, [OUTPUT] * PROMPTS, rig.vocabulary)
    return rig.generate(requests, temperature=0.0, concurrency=1, logprobs=True, audited=False)


def differences(before: Rollouts, after: Rollouts) -> tuple[int, float]:
    """Prompts whose tokens part, and the largest gap of log-probabilities up to the first token that differs."""
    other = before.tokens_BT != after.tokens_BT
    upto = np.cumsum(np.cumsum(other, axis=1), axis=1) <= 1
    gaps = np.abs(before.logprobs_BT - after.logprobs_BT)[upto]
    return int(other.any(axis=1).sum()), round(float(np.nan_to_num(gaps, nan=99.0).max()), 6)


def _same(cycles: list[Cycle], stale: int) -> Certificate:
    parted, gap = (max(cycle[name] for cycle in cycles) for name in ("parted", "gap"))
    reason = f"in the worst cycle {parted} of {PROMPTS} prompts answered otherwise after waking than before, "
    reason += f"log-probabilities up to there {gap:.1e} apart"
    if stale:
        reason += f"; {stale} prompt tokens came from a prefix cache whose memory was discarded"
    return Certificate(ok=parted <= PARTED and gap <= GAP and not stale, figure=parted, reason=reason)


def slope(values: list[float]) -> float:
    """Of a straight line through the values, a step each."""
    return round(float(np.polyfit(np.arange(len(values)), values, 1)[0]), 6) if len(values) > 1 else 0.0


def weights_gib(model: str, dtype: str) -> float:
    """Size of a model's weights; 0 where its configuration is not here."""
    try:
        return sum(math.prod(size) for _, size in models.tensors_of(model)) * DTYPE_BYTES[dtype] / GIB
    except UserError:
        return 0.0


TINY = SleepWake(model="tiny-qwen3", options=CPU, prompts=8, input_tokens=64, output_tokens=16)
B05 = SleepWake(model=HALF, gpus=1, options=replace(GPU, memory_fraction=0.4))
B70 = replace(B05, model=SEVENTY, gpus=8, options=replace(B05.options, tensor_parallel=8))

CASES = {
    "tiny": TINY,
    "tiny-pause": replace(TINY, weights="kept", kv_cache="kept"),
} | {
    f"{size}-{name}": case
    for size, base in (("0.5B", B05), ("7B", replace(B05, model=SEVEN)))
    for name, case in {
        "backup": base,
        "backup-staged": replace(base, staged=True),
        "discard": replace(base, weights="discarded"),
        "discard-staged": replace(base, weights="discarded", staged=True),
        "discard-graphs": replace(base, weights="discarded", cuda_graphs="released"),
        "kv": replace(base, weights="kept"),
        "weights": replace(base, weights="discarded", kv_cache="kept"),
        "pause": replace(base, weights="kept", kv_cache="kept"),
    }.items()
} | {
    "70B-tp8-backup": B70,
    "70B-tp8-discard-staged": replace(B70, weights="discarded", staged=True, senders=8),
    "70B-tp8-kv": replace(B70, weights="kept"),
}  # fmt: skip

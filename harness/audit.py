"""What was asked of an engine held against what came: the figures and certificates of a launch's calls."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from harness import stats
from harness.metrics import PERCENTILES
from harness.record import Certificate
from harness.rollouts import Requests, Rollouts, ids_hash
from harness.workload import reusable

LATE = 0.010  # seconds behind its time at which a request counts as late
LATE_SHARE = 0.01  # of the requests with a time of their own that may be
BLOCK = 128  # tokens: the largest block of a prefix cache in use, of which an engine may lose one a prompt

Figures = dict[str, float]


@dataclass
class Audit:
    """Sums over the calls that count. `caching`: whether the engine has a prefix cache."""

    caching: bool = True
    wrong_prompts: int = 0  # requests whose prompt was counted otherwise, and calls whose ids were not those sent
    wrong_outputs: int = 0  # requests that generated another number of tokens than asked
    cached: int = 0
    cache_range: list[int] = field(default_factory=lambda: [0, 0])
    late: list[float] = field(default_factory=list)  # seconds, of requests with a time of their own
    sending: list[tuple[float, float]] = field(
        default_factory=list
    )  # of each batch: seconds until all was sent, and in all
    hashes: list[str] = field(default_factory=list)
    calls: list[tuple[Requests, Rollouts]] = field(default_factory=list)
    waiting: list[tuple[Requests, Rollouts, float]] = field(default_factory=list)  # calls that are not judged yet

    def add(self, requests: Requests, out: Rollouts, floor: float) -> None:
        """Judged behind the steps, which must not wait for it. `floor`: the least share of what a perfect prefix cache
        would give that this call must get from it."""
        self.calls.append((requests, out))
        self.waiting.append((requests, out, floor))

    def _judge(self, requests: Requests, out: Rollouts, floor: float) -> None:
        self.hashes.append(requests.sha256[:16])
        whole = requests.prompts(out.tokens_BT)
        self.wrong_prompts += int((out.prompt_B != [len(p) for p in whole]).sum())
        self.wrong_prompts += int(str(out.prompts_sha256) != ids_hash(whole))
        self.wrong_outputs += int((out.output_B != requests.output_B).sum())
        possible = reusable(requests) if self.caching else np.zeros(1, np.int64)
        self.cached += int(out.cached_B.sum())
        self.cache_range[0] += int(floor * np.maximum(possible - BLOCK, 0).sum())
        self.cache_range[1] += int(possible.sum())
        own = requests.due_B > 0  # those due at the very start go in together, as fast as the engine's front takes them
        self.late += (out.sent_B - out.due_B)[own].tolist()
        if not own.any():
            self.sending.append((float((out.sent_B - out.due_B).max()), float(out.seconds)))

    def certificates(self) -> dict[str, Certificate]:
        while self.waiting:
            self._judge(*self.waiting.pop(0))
        if not self.calls:
            none = Certificate(ok=None, figure=0, reason="nothing was generated")
            return dict.fromkeys(("workload", "counts", "cache", "client"), none)
        low, high = self.cache_range
        cache = f"{self.cached} prompt tokens from the prefix cache, declared {low} to {high}"
        return {
            "workload": _none(self.wrong_prompts, "prompts that the engine did not get as they were sent"),
            "counts": _none(self.wrong_outputs, "requests with another number of tokens than asked"),
            "cache": Certificate(ok=low <= self.cached <= high, figure=self.cached, reason=cache),
            "client": self._client(),
        }

    def _client(self) -> Certificate:
        if self.late:
            share = sum(late > LATE for late in self.late) / len(self.late)
            reason = (
                f"{share:.1%} of requests sent over {LATE * 1e3:g} ms late, the latest {max(self.late) * 1e3:.1f} ms"
            )
            return Certificate(ok=share <= LATE_SHARE, figure=round(share, 4), reason=reason)
        if self.sending:
            slow = max(self.sending, key=lambda batch: batch[0] / batch[1])
            share = slow[0] / slow[1]
            reason = f"all due at once: the engine's front took {slow[0] * 1e3:.1f} ms to take them, {share:.1%} of all"
            return Certificate(ok=None, figure=round(share, 4), reason=reason)
        return Certificate(ok=None, figure=0, reason="nothing was sent")

    def table(self) -> list[dict[str, list[float]]]:
        """Of each call, what each request did: times in seconds from the start of the call, and tokens."""
        names = "due_B", "sent_B", "first_B", "done_B", "queued_B", "prompt_B", "cached_B", "output_B"
        return [{name[:-2]: np.round(getattr(out, name), 6).tolist() for name in names} for _, out in self.calls]

    def tails(self) -> tuple[Figures, dict[str, str]]:
        """The percentile metrics over all requests of the launch, and why others have none."""
        found, missing = Figures(), dict[str, str]()
        pools = {name: pooled(self.calls, name) for name in POOLS}
        for metric, (name, share) in PERCENTILES.items():
            values, needed = pools[name], stats.samples_needed(share)
            if not len(values):
                missing[metric] = "not streamed" if name == "itl" else "nothing to measure"
            elif len(values) < needed:
                missing[metric] = f"{len(values)} samples, {needed} needed"
            else:
                found[metric] = float(np.quantile(values, share))
        return found, missing


def pooled(calls: Sequence[tuple[Requests, Rollouts]], name: str) -> npt.NDArray[np.float64]:
    """Seconds of every request (for `itl` of every gap) of all calls."""
    return np.concatenate([np.empty(0), *(POOLS[name](out) for _, out in calls)])


def ttft(out: Rollouts) -> npt.NDArray[np.float64]:
    return out.first_B - out.due_B


def latency(out: Rollouts) -> npt.NDArray[np.float64]:
    return out.done_B - out.due_B


def tpot(out: Rollouts) -> npt.NDArray[np.float64]:
    """Of requests with more than one token."""
    more = out.output_B > 1
    return (out.done_B - out.first_B)[more] / (out.output_B[more] - 1)


def itl(out: Rollouts) -> npt.NDArray[np.float64]:
    return out.gaps_N


POOLS = {"ttft": ttft, "tpot": tpot, "latency": latency, "itl": itl}


def figures(requests: Requests, out: Rollouts) -> Figures:
    """The samples of one call: a metric of METRICS each."""
    seconds, generated = float(out.seconds), int(out.output_B.sum())
    prompts = int(out.prompt_B.sum())
    first, last = ([places[end] for places in requests.conversations] for end in (0, -1))
    finished = out.done_B[last]
    found = {
        "output_throughput": generated / seconds,
        "total_throughput": (generated + prompts) / seconds,
        "step_time": seconds,
        "ttft": float(np.median(ttft(out))),
        "latency": float(np.median(latency(out))),
        "cache_share": int(out.cached_B.sum()) / prompts,
        "preemptions": int(out.preemptions),
    }
    if first != last:
        found["conversation_time"] = float(np.median(finished - out.due_B[first]))
    if not requests.scheduled:  # a schedule would decide it
        found["bubble_share"] = float(finished.max() - np.median(finished)) / seconds
    if len(per_token := tpot(out)):
        found["tpot"] = float(np.median(per_token))
    if len(out.gaps_N):
        found["itl"] = float(np.median(out.gaps_N))
    if not math.isnan(queued := float(np.median(out.queued_B))):
        found["queue_time"] = queued
    return found


def _none(count: int, what: str) -> Certificate:
    return Certificate(ok=not count, figure=count, reason=f"{count} {what}")

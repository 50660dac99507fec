"""Whether an engine generates as fast behind its syncs as before the first."""

import statistics
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from harness import machine
from harness.record import Certificate
from harness.rollouts import Requests
from harness.series import load_certificate
from harness.workload import independent

if TYPE_CHECKING:
    from harness.rig import Rig

SEED, INPUT = 79, 32
BATCH = {"cpu": (16, 16), "cuda": (64, 128)}  # by device: prompts, and tokens that each generates
LEAST = {"cpu": 0.8, "cuda": 0.95}  # of the speed before; a CPU's is noise beyond that
WARM, ROUNDS, TRIES = 2, 5, 3
WORK = 300_000  # additions that tell how fast the processor is, some milliseconds


class Rounds(NamedTuple):
    """Generated tokens a second of each round, and when they ran, of time.monotonic(); seconds that the processor took
    for the same work behind each, the median."""

    rates: list[float]
    begun: float
    ended: float
    host: float = 1.0

    @property
    def level(self) -> float:
        return statistics.median(self.rates)


def batch(rig: "Rig") -> Requests:
    prompts, tokens = BATCH[rig.environment.device]
    return independent((SEED,), [INPUT] * prompts, [tokens] * prompts, rig.vocabulary)


def rounds(rig: "Rig") -> Rounds:
    """One batch time and again, each time from a cold prefix cache."""
    requests, rates, host, begun = batch(rig), list[float](), list[float](), 0.0
    for number in range(WARM + ROUNDS):
        begun = time.monotonic() if number == WARM else begun
        rig.flush()
        out = rig.generate(requests, temperature=0.0, audited=False)
        rates.append(int(out.output_B.sum()) / float(out.seconds))
        start = time.perf_counter()
        sum(range(WORK))
        host.append(time.perf_counter() - start)
    return Rounds(rates[WARM:], begun, time.monotonic(), statistics.median(host[WARM:]))


def kept(rig: "Rig", before: Rounds) -> Certificate:
    """Whether the rounds now are as fast as those before, by their medians; where they are not they are repeated. None
    where it cannot be told: others used the machine, its processor was as much slower (what an engine does between a
    GPU's kernels is the processor's), the fastest round of all was fast enough, or two before were as slow."""
    least, behind = LEAST[rig.environment.device], list[Rounds]()
    while len(behind) < TRIES and (not behind or behind[-1].level < least * before.level):
        behind.append(rounds(rig))
    rig.facts["speed"] = {"before": before.rates, "behind": [found.rates for found in behind]}
    ratio = round(behind[-1].level / before.level, 4)
    told = f"{ratio:.3f} of the {before.level:,.0f} tok/s before the first sync, at least {least} needed"
    if ratio >= least:
        return Certificate(ok=True, figure=ratio, reason=told)
    fastest, slower = max(max(found.rates) for found in behind) / before.level, behind[-1].host / before.host
    noise = disturbed(rig, [before, *behind])
    noise = noise or (f"the processor took {slower:.2f} times as long for the same" if ratio * slower >= least else "")
    noise = noise or (f"the fastest round had {fastest:.3f}" if fastest >= least else "")
    slow = sorted(before.rates)[1] / before.level
    noise = noise or (f"two before had {slow:.3f} or less" if slow <= ratio else "")
    return Certificate(ok=None if noise else False, figure=ratio, reason=f"{told}{noise and f', but {noise}'}")


def disturbed(rig: "Rig", spans: Iterable[Rounds]) -> str:
    """How others used the CPUs meanwhile; empty where they did not."""
    series, cores = rig.series(ended=False), machine.fingerprint().cores
    found = (load_certificate(series.window(span.begun, span.ended), cores) for span in spans)
    return next((load.reason for load in found if load.ok is False), "")

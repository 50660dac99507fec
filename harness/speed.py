"""Whether an engine generates as fast behind its syncs as before the first."""

import statistics
from typing import TYPE_CHECKING

from harness.record import Certificate
from harness.rollouts import Requests
from harness.workload import independent

if TYPE_CHECKING:
    from harness.rig import Rig

SEED, INPUT = 79, 32
BATCH = {"cpu": (16, 16), "cuda": (64, 128)}  # by device: prompts, and tokens that each generates
LEAST = {"cpu": 0.8, "cuda": 0.95}  # of the speed before; a CPU's is noise beyond that
WARM, ROUNDS, TRIES = 2, 5, 3


def batch(rig: "Rig") -> Requests:
    prompts, tokens = BATCH[rig.environment.device]
    return independent((SEED,), [INPUT] * prompts, [tokens] * prompts, rig.vocabulary)


def rounds(rig: "Rig") -> list[float]:
    """Generated tokens a second of one batch, time and again, each time from a cold prefix cache."""
    requests, found = batch(rig), list[float]()
    for _ in range(WARM + ROUNDS):
        rig.flush()
        out = rig.generate(requests, temperature=0.0, audited=False)
        found.append(int(out.output_B.sum()) / float(out.seconds))
    return found[WARM:]


def kept(rig: "Rig", before: list[float]) -> Certificate:
    """Whether the rounds now are as fast as those before, by their medians; where they are not they are repeated. None
    where the fastest of them all is: then it cannot be told."""
    least, behind = LEAST[rig.environment.device], list[list[float]]()
    level = statistics.median(before)
    while len(behind) < TRIES and (not behind or statistics.median(behind[-1]) < least * level):
        behind.append(rounds(rig))
    rig.facts["speed"] = {"before": before, "behind": behind}
    ratio = round(statistics.median(behind[-1]) / level, 4)
    told = f"{ratio:.3f} of the {level:,.0f} tok/s before the first sync, at least {least} needed"
    fastest = max(max(found) for found in behind) / level
    if ratio < least <= fastest:
        return Certificate(ok=None, figure=ratio, reason=f"{told}, but the fastest round had {fastest:.3f}")
    return Certificate(ok=ratio >= least, figure=ratio, reason=told)

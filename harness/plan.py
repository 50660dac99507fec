"""How long a run will take: from records of the same case and engine on this machine, else a guess that says so."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness import machine, store
from harness.record import Launch

GUESS = {"cpu": 45.0, "cuda": 90.0}  # seconds of a launch nothing is known of
START = {"cpu": 25.0, "cuda": 60.0}  # of these until the engine is ready

Key = tuple[str, str]  # case, engine


class Took(NamedTuple):
    """Seconds of a launch: until its engine was ready, and of one case in it."""

    start: float
    own: float

    @classmethod
    def of(cls, launch: Launch) -> "Took":
        """Of a record's launch, which stands for one case: the first in a launch waited for the engine."""
        start, seconds = sum(launch.samples.get("startup", ())), (launch.ended - launch.started).total_seconds()
        first = launch.facts.get("shared", {}).get("position", 1) == 1
        return cls(start, max(0.0, seconds - start) if first else seconds)


@dataclass
class Plan:
    """Seconds that a launch takes. `known` says of which case and engine they were measured."""

    device: str
    known: dict[Key, list[Took]] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, device: str, keys: Iterable[Key]) -> "Plan":
        """From the newest record of each key on this machine."""
        newest, _ = store.newest(root, machine.fingerprint().id)
        return cls(device, {key: [Took.of(launch) for launch in newest[key].good] for key in keys if key in newest})

    def seconds(self, *keys: Key) -> float:
        """Of one launch that measures these cases, one after another."""
        known = [took for key in keys if (took := self.known.get(key))]
        starts = [statistics.median(x.start for x in took) for took in known]
        return max(starts, default=START[self.device]) + sum(map(self.own, keys))

    def own(self, key: Key) -> float:
        """Of one case more in a launch."""
        known = [took.own for took in self.known.get(key, ())]
        return statistics.median(known) if known else GUESS[self.device] - START[self.device]

    def took(self, key: Key, launch: Launch) -> None:
        """A case has ended: what was measured now counts with what was known."""
        self.known.setdefault(key, []).append(Took.of(launch))

    def total(self, launches: Iterable[Sequence[Key]]) -> float:
        """Of launches, each of which measures some cases."""
        return sum(self.seconds(*keys) for keys in launches)


def spoken(seconds: float) -> str:
    """`40 s`, `4 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"

"""How long a run will take: from records of the same case and engine on this machine, else a guess that says so."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness import machine, store

GUESS = {"cpu": 45.0, "cuda": 90.0}  # seconds of a launch nothing is known of

Key = tuple[str, str]  # case, engine


@dataclass
class Plan:
    """Seconds that a launch of each case and engine takes. `known` says which were measured."""

    device: str
    known: dict[Key, list[float]] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, device: str, keys: Iterable[Key]) -> "Plan":
        """From the newest record of each key on this machine."""
        newest, _ = store.newest(root, machine.fingerprint().id)
        known = {key: newest[key].good for key in keys if key in newest}
        return cls(device, {k: [(x.ended - x.started).total_seconds() for x in good] for k, good in known.items()})

    def seconds(self, key: Key) -> float:
        """Of one launch."""
        return statistics.median(self.known[key]) if self.known.get(key) else GUESS[self.device]

    def took(self, key: Key, seconds: float) -> None:
        """A launch has ended: what was measured now counts with what was known."""
        self.known.setdefault(key, []).append(seconds)

    def total(self, keys: Iterable[Key]) -> float:
        return sum(map(self.seconds, keys))


def spoken(seconds: float) -> str:
    """`40 s`, `4 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"

"""Where a metric changed over the tracked records: change points, the commits around each, and the command that finds
the one between them."""

import itertools
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness import stats
from harness.errors import NotComparable
from harness.metrics import METRICS, Metric
from harness.record import Record

FEWEST = 8  # records of a series, below which a change point is a guess
SIDE = 3  # records on either side of a change
PENALTY = 5.0  # times log(n), in squared noise: noise alone shows a change in fewer than one series of twenty


@dataclass(frozen=True)
class Series:
    """A metric of one case on one engine, a record each, oldest first; `values` are geometric means over launches, or
    means where the metric's scale is differences."""

    metric: Metric
    records: Sequence[Record]
    values: Sequence[float]

    @property
    def scaled(self) -> np.ndarray:
        return np.log(self.values) if self.metric.scale == "ratio" else np.asarray(self.values)


@dataclass(frozen=True)
class Change:
    """A level that changed behind `before` and held from `after` on; `worse` as a share of a cost, or a difference."""

    series: Series
    before: Record
    after: Record
    worse: float

    @property
    def bisect(self) -> str:
        """The command that finds the commit: the working tree stays as it is, so that one gate judges all."""
        good, bad = self.before.commit.id, self.after.commit.id
        if "unknown" in (good, bad):
            return ""
        gate = ["rollbench", "gate", good, "BISECT_HEAD", "-c", self.before.case, "-e", self.before.engine,
                "--block", self.series.metric.name, "--no-control", "--bisect"]  # fmt: skip
        start = ["git", "bisect", "start", "--no-checkout", bad, good]
        return f"{shlex.join(start)} && git bisect run {shlex.join(gate)}"

    @property
    def one_commit(self) -> bool:
        """Whether both sides are of one commit: then it was not the code that changed."""
        return self.before.commit.id == self.after.commit.id


def series(records: Iterable[Record]) -> list[Series]:
    """By case, engine and metric, of records that can be compared with the newest of their kind."""
    kinds = dict[tuple[str, str, str], list[Record]]()
    for record in sorted(records, key=lambda r: r.started):
        if record.good and not record.broken:
            kinds.setdefault((record.case, record.engine, record.lane), []).append(record)
    found = []
    for kind in kinds.values():
        same = [record for record in kind if _comparable(record, kind[-1])]
        for metric in METRICS.values():
            if metric.better:
                held = [(record, value) for record in same if (value := _value(record, metric)) is not None]
                if held:
                    found.append(Series(metric, *zip(*held, strict=True)))
    return found


def _comparable(record: Record, newest: Record) -> bool:
    try:
        record.must_compare(newest)
    except NotComparable:
        return False
    return True


def _value(record: Record, metric: Metric) -> float | None:
    launches = record.samples(metric.name)
    if not launches or (metric.scale == "ratio" and not stats.positive(launches)):
        return None
    return stats.level(launches).point


def changes(found: Series) -> list[Change]:
    """Its change points (PELT with a normal's mean), none in a series of fewer than FEWEST records. The noise is that
    between neighbours, which a change of level hardly touches."""
    if len(found.values) < FEWEST:
        return []
    scaled = found.scaled
    noise = float(np.median(np.abs(np.diff(scaled)))) / (0.6745 * math.sqrt(2))
    if noise <= stats.EXACT * np.abs(scaled).max():
        noise = max(float(np.ptp(scaled)) / 100, 1e-12)
    import ruptures

    search = ruptures.Pelt(model="l2", min_size=SIDE, jump=1).fit(scaled / noise)
    ends = [0, *search.predict(pen=PENALTY * math.log(len(scaled)))]
    means = [float(scaled[a:b].mean()) for a, b in itertools.pairwise(ends)]
    return [
        Change(found, found.records[end - 1], found.records[end], _worse(found.metric, after - before))
        for end, before, after in zip(ends[1:], means, means[1:], strict=False)
    ]


def _worse(metric: Metric, change: float) -> float:
    signed = change if metric.better == "lower" else -change
    return math.expm1(signed) if metric.scale == "ratio" else signed

"""The gate: what may be said of a change, from launches of before and after. docs/gate.md says why the rules are so.

A cell is a metric of one case on one engine, with a value a launch on either side. Cells whose metric blocks share one
chance of a false alarm (Holm); among those that inform, the share of false ones among the alarms is bounded
(Benjamini-Hochberg).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

from harness import stats
from harness.metrics import Metric

FIRST_SHARE = 0.8  # of alpha, for the first of two looks; the second has the rest, so that both together keep to alpha
MOST_PAIRS = 200  # that anyone is advised to measure


class Verdict(StrEnum):
    PASS = "pass"
    REGRESS = "regress"
    IMPROVE = "improve"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


EXIT = {Verdict.PASS: 0, Verdict.IMPROVE: 0, Verdict.REGRESS: 1, Verdict.INCONCLUSIVE: 3, Verdict.INVALID: 3}


@dataclass(frozen=True)
class Looks:
    """When the figures are looked at, fixed before the first launch: behind `pairs` pairs, and where a cell was
    inconclusive then once more, behind `more` further ones. `pairs` 0: once, at all there are."""

    pairs: int = 0
    more: int = 0
    alpha: float = 0.05

    @property
    def plan(self) -> list[tuple[int, float]]:
        """Pairs and alpha of each look."""
        if not self.pairs or not self.more:
            return [(self.pairs or MOST_PAIRS * 10, self.alpha)]
        first = round(self.alpha * FIRST_SHARE, 12)
        return [(self.pairs, first), (self.pairs + self.more, round(self.alpha - first, 12))]


@dataclass(frozen=True)
class Cell:
    """What is judged. `base` and `head` hold a value a launch, of pairs in their order unless `apart`. `settled` is the
    verdict of what needs no statistics, and `reason` says why; `metric` None: of the whole case. A cell that is `new`
    has no verdict at all."""

    case: str
    engine: str
    metric: Metric | None = None
    base: tuple[float, ...] = ()
    head: tuple[float, ...] = ()
    apart: bool = False
    settled: Verdict | None = None
    new: bool = False
    reason: str = ""

    @property
    def tested(self) -> bool:
        return self.settled is None and not self.new

    @property
    def blocks(self) -> bool:
        return self.metric is None or self.metric.blocks

    @property
    def pairs(self) -> int:
        return min(len(self.base), len(self.head))

    def change(self, pairs: int) -> stats.Change:
        """head against base over the first pairs: log-ratios, or differences where the metric's scale is that."""
        base, head = (self._scaled(values[: None if self.apart else pairs]) for values in (self.base, self.head))
        if self.apart:
            return stats.apart(head, base)
        return stats.paired([after - before for before, after in zip(base, head, strict=True)])

    def _scaled(self, values: Sequence[float]) -> list[float]:
        ratio = self.metric is not None and self.metric.scale == "ratio"
        return [math.log(value) for value in values] if ratio else list(values)


@dataclass(frozen=True)
class Row:
    """A cell with its verdict, None for what is new, and the evidence. `adjusted` is its p value among all of its
    family; `detectable` the smallest change for the worse that would have been found, in the metric's scale."""

    cell: Cell
    verdict: Verdict | None
    reason: str = ""
    change: stats.Change | None = None
    adjusted: float = 1.0
    detectable: float = math.inf
    alpha: float = 0.05
    look: int = 1

    @cached_property
    def worse(self) -> float:
        """How much worse head is: a share of a cost (throughput counts as its inverse), or a difference."""
        return _harm(self.cell, self.change.point) if self.change else 0.0

    @property
    def flagged(self) -> bool:
        return self.verdict in (Verdict.REGRESS, Verdict.IMPROVE)


def judge(cells: Sequence[Cell], looks: Looks) -> list[Row]:
    """A row for each cell, in their order."""
    rows = {i: Row(cell, cell.settled, cell.reason) for i, cell in enumerate(cells) if not cell.tested}
    for blocks in (True, False):
        family = {i: cell for i, cell in enumerate(cells) if cell.tested and cell.blocks == blocks}
        rows |= _family(family, looks, "holm" if blocks else "fdr_bh")
    return [rows[i] for i in range(len(cells))]


def _family(family: dict[int, Cell], looks: Looks, how: stats.Correction) -> dict[int, Row]:
    """Cells corrected together. Those that are settled stay in the family at the second look, with a p value of 1."""
    rows, still = dict[int, Row](), set(family)
    for look, (pairs, alpha) in enumerate(looks.plan, 1):
        changes = {i: family[i].change(pairs) for i in still}
        adjusted = stats.adjusted([changes[i].p if i in still else 1.0 for i in family], how)
        for i, p in zip(family, adjusted, strict=True):
            if i in still:
                rows[i] = _row(family[i], changes[i], float(p), alpha, len(family), look)
        still = {i for i in still if rows[i].verdict == Verdict.INCONCLUSIVE and family[i].pairs > pairs}
    return rows


def _row(cell: Cell, change: stats.Change, adjusted: float, alpha: float, family: int, look: int) -> Row:
    assert cell.metric is not None
    detectable = _share(cell, stats.detectable(change.spread, change.pairs, alpha / family))
    row = Row(cell, None, cell.reason, change, adjusted, detectable, alpha, look)
    verdict = rule(adjusted < alpha, row.worse, _harm(cell, -change.point), detectable, cell.metric)
    told = (row.reason, _why(row, verdict, family))
    return replace(row, verdict=verdict, reason="; ".join(filter(None, told)))


def rule(certain: bool, worse: float, better: float, detectable: float, metric: Metric) -> Verdict:
    """The verdict. `certain`: the adjusted p value is below alpha; `worse` and `better` are shares of a cost, or
    differences."""
    if certain and worse >= metric.tolerance:
        return Verdict.REGRESS
    if certain and better >= metric.tolerance:
        return Verdict.IMPROVE
    return Verdict.PASS if detectable <= metric.detect else Verdict.INCONCLUSIVE


def _harm(cell: Cell, change: float) -> float:
    assert cell.metric is not None
    return _share(cell, change if cell.metric.better == "lower" else -change)


def _share(cell: Cell, change: float) -> float:
    """A log-ratio as a share; a difference as it is."""
    ratio = cell.metric is not None and cell.metric.scale == "ratio"
    return (math.expm1(change) if change < 700 else math.inf) if ratio else change


def _why(row: Row, verdict: Verdict, family: int) -> str:
    """What an inconclusive cell lacks."""
    if verdict != Verdict.INCONCLUSIVE or row.change is None or row.cell.metric is None:
        return ""
    if row.change.pairs < 2:
        return "one pair says nothing of chance: measure at least 2, better 5"
    detect = row.cell.metric.detect
    enough = (n for n in range(3, MOST_PAIRS + 1) if _sees(row, n, family) <= detect)
    if (pairs := next(enough, None)) is None:
        return f"too noisy here: more than {MOST_PAIRS} pairs would be needed"
    return f"about {pairs} pairs would do at this spread"


def _sees(row: Row, pairs: int, family: int) -> float:
    assert row.change is not None
    return _share(row.cell, stats.detectable(row.change.spread, pairs, row.alpha / family))


def distrust(rows: Sequence[Row], why: str) -> list[Row]:
    """The rows of a session whose control failed: none of its verdicts on figures counts."""
    return [replace(row, verdict=Verdict.INVALID, reason=why) if row.cell.tested else row for row in rows]


def overall(rows: Sequence[Row]) -> Verdict:
    """The verdict of all: the worst of those that block; nothing judged is inconclusive."""
    verdicts = {row.verdict for row in rows if row.cell.blocks and row.verdict}
    for verdict in (Verdict.REGRESS, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.IMPROVE):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS if verdicts else Verdict.INCONCLUSIVE

"""What records say of a claim: tests that the table of claims names, and what they found."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from harness import compare, gate, probes, stats, together
from harness.compare import Ratio
from harness.envs import PAIR
from harness.gate import Cell, Looks, Verdict
from harness.metrics import METRICS
from harness.probes import State
from harness.record import Record
from harness.standings import NAMES, Standing


class Says(StrEnum):
    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "inconclusive"
    NONE = "not measured"


@dataclass(frozen=True)
class Finding:
    """`records`: a word for each and its path. `gpu`: measured on one. `general`: of no record, so of no machine."""

    says: Says
    told: str
    where: str = ""
    gpu: bool = False
    records: tuple[tuple[str, str], ...] = ()
    general: bool = False


@dataclass(frozen=True)
class Test:
    """What decides a claim: in words, and from the claim's standings, its metric, and all standings."""

    __test__ = False  # it is none of pytest's
    told: str
    find: Callable[[Sequence[Standing], str, Sequence[Standing]], list[Finding]]


Said = tuple[Says, str] | None
Check = Callable[[Standing, str], Said]
SIMILAR, ABOUT = 0.10, 1.5  # shares of a ratio that are still similar; factor of a time that is still about the same


def each(told: str, check: Check, engines: Sequence[str] = PAIR) -> Test:
    """A finding for each case of the claim that the check has something to say of."""

    def find(chosen: Sequence[Standing], metric: str, everything: Sequence[Standing]) -> list[Finding]:
        said = ((standing, check(standing, metric)) for standing in chosen)
        return [_finding(standing, engines, *words) for standing, words in said if words]

    return Test(told, find)


def _finding(standing: Standing, engines: Sequence[str], says: Says, told: str) -> Finding:
    key = standing.key
    records = tuple((engine, standing.entries[engine].path) for engine in engines if engine in standing.entries)
    return Finding(says, f"{told} ({key.case}, {key.machine})", key.machine, standing.gpu, records)


def faster(engine: str) -> Test:
    """That an engine's figure is the better one, by the gate's rule."""
    says = {f"{NAMES[engine]} better": Says.HOLDS, "inconclusive": Says.OPEN}
    return _by_gate(f"{NAMES[engine]} better by the gate", lambda verdict, _: says.get(verdict, Says.FAILS))


def similar() -> Test:
    """That the engines differ by at most a tenth: they do not where the gate says that one is better."""

    def says(verdict: str, ratio: Ratio) -> Says:
        within = _within(ratio.estimate, 1 - SIMILAR, 1 / (1 - SIMILAR))
        if verdict == "alike" or within == Says.HOLDS:
            return Says.HOLDS
        return Says.OPEN if verdict == "inconclusive" else within

    return _by_gate(f"at most {SIMILAR:.0%} apart", says)


def _by_gate(told: str, says: Callable[[str, Ratio], Says]) -> Test:
    """Of the engines' ratio and what the gate says of it."""

    def check(standing: Standing, metric: str) -> Said:
        ratio = standing.ratios.get(metric)
        if ratio is None or ratio.broken:
            return (Says.NONE, f"invalid: {ratio.broken}") if ratio else None
        verdict = standing.verdicts.get(metric, "inconclusive")
        return says(verdict, ratio), f"{_ratio(ratio)}: {verdict}"

    return each(told, check)


def _ratio(ratio: Ratio) -> str:
    before, after = (NAMES[engine] for engine in PAIR)
    return f"{ratio.metric.title}, {after} / {before} {compare.ratio_text(ratio)}"


def _within(found: stats.Estimate, low: float, high: float) -> Says:
    """Whether an interval lies inside others, outside of them, or neither."""
    if found.low is None or found.high is None:
        return Says.OPEN
    if low <= found.low and found.high <= high:
        return Says.HOLDS
    return Says.FAILS if found.high < low or found.low > high else Says.OPEN


def about(engine: str, seconds: float) -> Test:
    """That a time is about so many seconds."""
    low, high = seconds / ABOUT, seconds * ABOUT
    return _level(f"interval within {low:.2g} to {high:.2g} s", engine, low, high)


def at_most(engine: str, limit: float) -> Test:
    """That a level is at most so high."""
    return _level(f"interval below {limit:g}", engine, float("-inf"), limit)


def _level(told: str, engine: str, low: float, high: float) -> Test:
    def check(standing: Standing, metric: str) -> Said:
        record, level = standing.records.get(engine), standing.levels.get(metric, {}).get(engine)
        if record is None or level is None:
            return (Says.NONE, f"invalid: {record.broken[0]}") if record and record.broken else None
        return _within(level, low, high), f"{METRICS[metric].title} {compare.level_text(level, METRICS[metric])}"

    return each(told, check, [engine])


def runs(
    engine: str,
    only: Callable[[Record], bool] = lambda record: True,
    yes: Says = Says.HOLDS,
    judge: Callable[[Record], probes.Said] = probes.outcome,
) -> Test:
    """That an engine does it: launches ended well and their certificates hold. `yes` FAILS: that it does not."""

    def check(standing: Standing, metric: str) -> Said:
        record = standing.records.get(engine)
        if record is None or not only(record):
            return None
        state, words = judge(record)
        launches = f"{len(record.good)} launch{'' if len(record.good) == 1 else 'es'}"
        refused = Says.HOLDS if yes == Says.FAILS else Says.FAILS
        return {
            State.NO: (refused if standing.gpu else Says.NONE, f"refuses: {words}"),
            State.FAILED: (Says.OPEN, f"failed: {words}"),
            State.INVALID: (Says.NONE, f"invalid: {words}"),
            State.YES: (yes, f"{NAMES[engine]} ran it in {launches}"),
        }[state]

    return each(f"{NAMES[engine]} {'does' if yes == Says.HOLDS else 'cannot do'} it", check, [engine])


def proves(engine: str, probe: probes.Probe) -> Test:
    """That an engine does what a probe of the matrix asks for."""
    return runs(engine, probe.speaks, judge=probe.outcome)


def better_than(engine: str, ending: str) -> Test:
    """That an engine's figure is better than in the case whose name has this ending besides (or lacks it: `-…`)."""

    def find(chosen: Sequence[Standing], metric: str, everything: Sequence[Standing]) -> list[Finding]:
        others = {(s.key.machine, s.key.case, s.key.model): s for s in everything}
        found = []
        for one in chosen:
            name = one.key.case + ending if ending.startswith("-") else one.key.case.removesuffix(f"-{ending}")
            other = others.get((one.key.machine, name, one.key.model))
            if other and (words := _than(one, other, engine, metric)):
                records = ((_short(s), s.entries[engine].path) for s in (one, other))
                found.append(Finding(*words, one.key.machine, one.gpu, tuple(records)))
        return found

    return Test(f"{NAMES[engine]} better {'than with' if ending.startswith('-') else 'with'} {ending.lstrip('-')}"
                f"{'' if ending.startswith('-') else ' than without'}, by the gate", find)  # fmt: skip


def _than(one: Standing, other: Standing, engine: str, metric: str) -> Said:
    records = [standing.records.get(engine) for standing in (one, other)]
    samples = [record.samples(metric) if record and not record.broken else [] for record in records]
    if not all(samples) or not all(map(stats.positive, samples)):
        return None
    head, base = (tuple(map(stats.launch_value, launches)) for launches in samples)
    (row,) = gate.judge([Cell(one.key.case, engine, METRICS[metric], base, head, apart=True)], Looks())
    says = {Verdict.IMPROVE: Says.HOLDS, Verdict.INCONCLUSIVE: Says.OPEN}.get(row.verdict or Verdict.PASS, Says.FAILS)
    words = compare.ratio_text(Ratio(METRICS[metric], stats.ratio(samples[0], samples[1], paired=False), False))
    told = f"{NAMES[engine]}, {METRICS[metric].title} {words} times that of {_short(other)}"
    return says, f"{told} ({one.key.case}, {one.key.machine})"


def _short(standing: Standing) -> str:
    return standing.key.case.split("/", 1)[-1]


def version(engine: str, package: str, wanted: str) -> Test:
    """That records, and the locks, have this version of a package."""

    def find(chosen: Sequence[Standing], metric: str, everything: Sequence[Standing]) -> list[Finding]:
        found: dict[str, Standing] = {}
        for standing in everything:
            if (record := standing.records.get(engine)) and package in record.versions:
                found.setdefault(record.versions[package], standing)
        locked = [f"{lane} {held}" for lane in together.LANES if (held := together.pins(lane, engine).get(package))]
        told = f"{package} {', '.join([*sorted(found), *(f'locked: {one}' for one in locked)])}"
        says = Says.HOLDS if {*found, *(one.split()[1] for one in locked)} == {wanted} else Says.FAILS
        records = tuple((name, found[name].entries[engine].path) for name in sorted(found))
        return [Finding(says, told, records=records, general=True)] if found or locked else []

    return Test(f"{package} {wanted} in records and locks", find)


def apart(what: Literal["torch", "engines"], lane: str) -> Test:
    """That the engines do not fit into one environment of a lane: by what each asks of torch, or both together."""

    def find(chosen: Sequence[Standing], metric: str, everything: Sequence[Standing]) -> list[Finding]:
        found = []
        for answer in together.answers().values():
            kind = "torch" if answer.asked[1].startswith("torch==") else "engines"
            if (kind, answer.lane) == (what, lane):
                said = "fits" if answer.fits else re.sub(r"\{[^}]*\}", "", answer.why)
                told = f"{' with '.join(answer.asked)}: {said}"
                found.append(Finding(Says.FAILS if answer.fits else Says.HOLDS, told, general=True))
        return found

    return Test("the resolver, asked of the locks", find)


def untested(why: str) -> Test:
    """No record can say, or none was made."""

    def find(chosen: Sequence[Standing], metric: str, everything: Sequence[Standing]) -> list[Finding]:
        return [Finding(Says.NONE, why, general=True)]

    return Test("none", find)

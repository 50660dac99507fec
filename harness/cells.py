"""Records of two sides as the gate's cells: pairs of launches where both ran together, and why a case has none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness import stats, store
from harness.errors import NotComparable, UserError
from harness.gate import Cell, Verdict
from harness.metrics import METRICS, Metric, in_case
from harness.record import DRIFTING, OF_THE_MACHINE, Commit, Launch, Record

FAILED = "failed.jsonl"  # beside the records of a side: launches that left none
Key = tuple[str, str]  # case, engine


class Failure(BaseModel):
    """A launch that gave no record: what happened, and where its log lies."""

    model_config = ConfigDict(extra="forbid")
    case: str
    engine: str
    pair: int
    error: str
    log: str = ""


@dataclass(frozen=True)
class Side:
    """One of two sets of records, the newest of each case and engine."""

    where: str
    records: Mapping[Key, Record] = field(default_factory=dict)
    failures: Mapping[Key, Sequence[Failure]] = field(default_factory=dict)
    skipped: Sequence[str] = ()

    @property
    def keys(self) -> set[Key]:
        return {*self.records, *self.failures}

    @property
    def commits(self) -> list[Commit]:
        """Of its records; most sides are of one."""
        return list(dict.fromkeys(record.commit for record in self.records.values()))


def read(path: Path, cases: Iterable[str] = (), engines: Iterable[str] = ()) -> Side:
    """A record file, or all records of a folder; of these cases (names, scenarios, patterns) and engines, where any are
    named. Raises UserError when
    it holds none."""
    if not path.exists():
        raise UserError(f"{path}: no such record or folder of records")
    found = store.scan(path) if path.is_dir() else [(path, store.load(path))]
    records, skipped = dict[Key, Record](), list[str]()
    for _, record in found:
        if isinstance(record, str):
            skipped.append(record)
        elif (key := (record.case, record.engine)) not in records or records[key].started < record.started:
            records[key] = record
    failures = dict[Key, list[Failure]]()
    for failure in _failures(path / FAILED):
        failures.setdefault((failure.case, failure.engine), []).append(failure)
    wanted = [name if "/" in name else f"{name}/*" for name in cases], list(engines)
    kept = {key: record for key, record in records.items() if _fits(key, *wanted)}
    side = Side(str(path), kept, {key: f for key, f in failures.items() if _fits(key, *wanted)}, skipped)
    if not side.keys:
        raise UserError(f"{path} holds no records" + (" of what was asked for" if records or failures else ""))
    return side


def _fits(key: Key, cases: Sequence[str], engines: Sequence[str]) -> bool:
    return any(fnmatchcase(key[0], name) for name in cases or ["*"]) and (not engines or key[1] in engines)


def _failures(path: Path) -> list[Failure]:
    if not path.is_file():
        return []
    try:
        return [Failure.model_validate_json(line) for line in path.read_text().splitlines()]
    except (OSError, ValidationError) as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def upgrades(base: Side, head: Side) -> list[str]:
    """What differs besides the code: engines whose environments are of another lock, and the versions that changed."""
    found = dict[str, None]()
    for key in sorted(base.records.keys() & head.records.keys()):
        before, after = base.records[key], head.records[key]
        names = sorted({*before.versions, *after.versions})
        changed = [(name, *(r.versions.get(name, "none") for r in (before, after))) for name in names]
        told = ", ".join(f"{name} {old} to {new}" for name, old, new in changed if old != new)
        if told or before.lock_hash != after.lock_hash:
            found[f"{after.engine}: its environment differs ({told or 'another lock, the same versions'})"] = None
    return list(found)


def cells(base: Side, head: Side, apart: bool = False, shared: bool = False) -> list[Cell]:
    """Every metric of every case and engine. Sides that were not measured together are judged only with `apart`;
    `shared` counts launches that others on the machine spoilt.

    Raises NotComparable, naming the field, when nothing at all can be compared.
    """
    found, refused = list[Cell](), list[str]()
    for key in sorted(base.keys | head.keys):
        case = _Case(key, base, head, apart, shared)
        try:
            found += case.cells()
        except NotComparable as error:
            refused.append(str(error))
            found.append(Cell(*key, settled=Verdict.INVALID, reason=str(error)))
    if refused and len(refused) == len(base.keys & head.keys):
        raise NotComparable(refused[0])
    return found


@dataclass(frozen=True)
class _Case:
    """A case on an engine, on both sides."""

    key: Key
    base: Side
    head: Side
    apart: bool
    shared: bool

    def cells(self) -> list[Cell]:
        before, after = (side.records.get(self.key) for side in (self.base, self.head))
        good = [bool(record and record.measured) for record in (before, after)]
        if all(good) and before and after:
            return self._measured(before, after)
        states = [_state(side, self.key) for side in (self.base, self.head)]
        return [self._whole(*states)]

    def _whole(self, before: str, after: str) -> Cell:
        """A case that has figures on one side at most."""
        what = f"{after} on head; base: {before}"
        fates: dict[tuple[str, str], tuple[Verdict | None, str]] = {
            ("absent", "measured"): (None, "base has no such benchmark: nothing to compare with"),
            ("measured", "absent"): (Verdict.INCONCLUSIVE, "head has no such benchmark: nothing guards it any more"),
            ("failed", "measured"): (None, f"base failed, head does not ({_error(self.base, self.key)})"),
            ("measured", "failed"): (Verdict.REGRESS, f"fails on head alone: {_error(self.head, self.key)}"),
            ("unsupported", "measured"): (None, "base could not do this, head can"),
            ("measured", "unsupported"): (Verdict.REGRESS, f"head cannot do this: {_said(self.head, self.key)}"),
            ("unsupported", "unsupported"): (None, f"not supported: {_said(self.head, self.key)}"),
            ("failed", "failed"): (Verdict.INVALID, f"fails on both: {_error(self.head, self.key)}"),
        }  # fmt: skip
        verdict, reason = fates.get((before, after), (None if after == "unsupported" else Verdict.INVALID, what))
        return Cell(*self.key, settled=verdict, new=verdict is None, reason=reason)

    def _measured(self, before: Record, after: Record) -> list[Cell]:
        before.must_compare(after)
        if before.lane != after.lane:
            raise NotComparable(f"{before.case}: lane was {before.lane!r}, now {after.lane!r}")
        if why := self._void(before, after):
            return [Cell(*self.key, settled=Verdict.INVALID, reason=why)]
        together = before.run == after.run
        ours, theirs = (counted(record, self.shared) for record in (before, after))
        if together:
            both = [n for n in sorted(ours) if n in theirs and ours[n].boot_id == theirs[n].boot_id]
            ours, theirs = ({n: side[n] for n in both} for side in (ours, theirs))
        if not ours or not theirs:
            return [Cell(*self.key, settled=Verdict.INVALID, reason=_lost(before, after))]
        known = (in_case(metric, before.params) for metric in METRICS.values() if metric.better)
        found = (self._cell(metric, ours, theirs, together) for metric in known)
        return [cell for cell in found if cell]

    def _void(self, before: Record, after: Record) -> str:
        """Why the figures do not count: launches that failed, certificates that did not hold."""
        if failed := [launch for launch in after.launches if launch.error] + list(self.head.failures.get(self.key, ())):
            return f"{len(failed)} launch(es) failed on head: {_error(self.head, self.key)}"
        told = ((name, untrue(record)) for name, record in (("base", before), ("head", after)))
        return next((f"{name}: {why}" for name, why in told if why), "") or drifts(before, after)

    def _cell(
        self, metric: Metric, base: Mapping[int, Launch], head: Mapping[int, Launch], together: bool
    ) -> Cell | None:
        held = [
            {n: stats.launch_value(launch.samples[metric.name]) for n, launch in side.items()
             if launch.samples.get(metric.name)}
            for side in (base, head)
        ]  # fmt: skip
        if not any(held):
            return None
        if not held[0]:
            return Cell(*self.key, metric, new=True, reason="base does not give it")
        if not held[1]:
            return Cell(*self.key, metric, settled=Verdict.INCONCLUSIVE, reason="head does not give it any more")
        if together:
            held = [{n: values[n] for n in sorted(held[0].keys() & held[1].keys())} for values in held]
        before, after = (tuple(values.values()) for values in held)
        cell = Cell(*self.key, metric, before, after, apart=not together)
        settled = self._unfit(cell)
        return (
            Cell(*self.key, metric, before, after, not together, Verdict.INCONCLUSIVE, reason=settled)
            if settled
            else cell
        )

    def _unfit(self, cell: Cell) -> str:
        """Why a metric that both have cannot be tested."""
        if not cell.pairs:
            return "no pair has it on both sides"
        if cell.apart and not self.apart:
            return (
                "not measured together: what the machine did meanwhile counts as a change (--apart judges all the same)"
            )
        ratio = cell.metric is not None and cell.metric.scale == "ratio"
        if ratio and min(*cell.base, *cell.head) <= 0:
            return "no ratio: a launch's value is not above 0"
        return ""


def counted(record: Record, shared: bool) -> dict[int, Launch]:
    """The launches that count in a gate, by pair: without those that the machine spoilt, unless it is `shared`."""
    return {launch.pair: launch for launch in record.measured if shared or not launch.spoilt}


def untrue(record: Record) -> str:
    """The first certificate that did not hold and that is no fault of the machine."""
    for launch in record.measured:
        for name, held in launch.certificates.items():
            if held.ok is False and name not in OF_THE_MACHINE:
                return f"launch {launch.order}, {name}: {held.reason}"
    return ""


def drifts(before: Record, after: Record) -> str:
    """How often head's figures drift within a launch, where that is head's doing: in several, and more than base's."""
    found = [[launch for launch in record.measured if _drifted(launch)] for record in (before, after)]
    if len(found[1]) < DRIFTING or len(found[1]) <= len(found[0]):
        return ""
    return f"head: {len(found[1])} of {len(after.measured)} launches, {_drifted(found[1][0])}"


def _drifted(launch: Launch) -> str:
    """How a launch's figures drift, or did before they were measured anew."""
    return launch.red("steady") or ("steady: measured anew" if launch.facts.get("drifted") else "")


def _lost(before: Record, after: Record) -> str:
    why = next((told for record in (before, after) for launch in record.measured if (told := launch.spoilt)), "")
    return f"no pair is left whose launches both count ({why or 'no pair was measured on both sides'})"


def _state(side: Side, key: Key) -> str:
    record = side.records.get(key)
    if record and record.measured:
        return "measured"
    if record and record.unsupported:
        return "unsupported"
    return "failed" if record or key in side.failures else "absent"


def _said(side: Side, key: Key) -> str:
    record = side.records.get(key)
    return (record.unsupported if record else "") or ""


def _error(side: Side, key: Key) -> str:
    """The first line of what a launch died of, and where its log lies."""
    for failure in side.failures.get(key, ()):
        return f"{failure.error.splitlines()[0]}" + (f" (log: {failure.log})" if failure.log else "")
    record = side.records.get(key)
    errors = [launch.error for launch in record.launches if launch.error] if record else []
    return errors[0].splitlines()[0] if errors else ""

"""Run cases: launches of all engines in ABBA order, each a fresh process group that measures one case or several."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import commit, machine, models, paths, store
from harness.envs import Environment
from harness.groups import Group, grouped, launches
from harness.pending import Part, Pending
from harness.plan import Key, Plan, spoken
from harness.record import Launch, Record
from harness.scenario import Scenario
from harness.shift import Shift, Slot, Tell


class BudgetSpent(Exception):
    """What is still to be measured would take longer than the run may."""


@dataclass(frozen=True)
class Run:
    """What `rollbench run` was asked for. `tell` is given what is being waited for; `report` what stays to be read."""

    environments: Sequence[Environment]
    launches: int
    root: Path
    resume: bool
    timeout: float
    tell: Tell
    report: Tell
    plan: Plan = field(default_factory=lambda: Plan("cpu"))
    pendings: list[Pending] = field(default_factory=list)
    ahead: list[list[Key]] = field(default_factory=list)  # what each launch still to come measures
    share: bool = False  # inference cases share launches too
    failures: bool = False  # a record also of an engine whose every launch failed
    until: float = math.inf  # of time.monotonic(): nothing is begun that would end later

    def schedule(self, group: Group | None = None) -> list[Slot]:
        """ABBA: every second pair runs its engines the other way round, so that drift hits all alike. Without engines
        that a group has no case for."""
        environments = [e for e in self.environments if group is None or group.keys(e.engine)]
        slots: list[Slot] = []
        for pair in range(self.launches):
            for environment in environments if pair % 2 == 0 else reversed(environments):
                slots.append(Slot(len(slots) + 1, pair + 1, environment))
        return slots

    def cases(self, cases: dict[str, Scenario]) -> tuple[list[Path], int]:
        """Run them all; the records written, and how many planned launches gave no figures."""
        for scenario in cases.values():
            models.find(scenario.model)
        if commit.current().dirty:
            self.report("the files are not those of a commit or stamp, and the records will say so")
        groups, done, missing = grouped(cases, self.share), 0, 0
        for group in groups:
            self.ahead.extend(launches([group], [slot.environment.engine for slot in self.schedule(group)]))
        for group in groups:
            self.report(_heading(group, done, len(cases)))
            for line in _left_out(group, self.environments):
                self.report(line)
            done += len(group.cases)
            pendings = self._open(group)
            if all(pending.records is not None for pending in pendings.values()):
                del self.ahead[: len(self.schedule(group))]
                self.report("its records are there from the interrupted run")
            else:
                self._measure_group(group, pendings)
            missing += sum(self._missing(group, name, pending) for name, pending in pendings.items())
        written = self.written
        for pending in self.pendings:
            pending.remove()
        return written, missing

    def _open(self, group: Group) -> dict[str, Pending]:
        """Where the launches of each case are kept until all have ended."""
        root, names = self.root / ".work" / "pending", list(group.cases)
        identities = {name: self._identity(name, case) | {"shared": names} for name, case in group.cases.items()}
        pendings = {name: Pending.open(root, identity, self.resume) for name, identity in identities.items()}
        if self.resume and not any(pending.resumed for pending in pendings.values()):
            self.report("nothing to resume: no interrupted run of the same case, options, engines and commit")
        self.pendings.extend(pendings.values())
        return pendings

    @property
    def written(self) -> list[Path]:
        """Records of the cases that have ended."""
        return [path for pending in self.pendings for path in pending.records or []]

    @property
    def kept(self) -> int:
        """Finished launches that an interruption leaves for `--resume`."""
        return sum(pending.good(self.environments) for pending in self.pendings)

    def _measure_group(self, group: Group, pendings: dict[str, Pending]) -> None:
        """Measure its launches and write its records; those of cases that lack nothing also where it is interrupted."""
        whole = False
        try:
            self._measure_launches(group, pendings)
            whole = True
        finally:
            for name, pending in pendings.items():
                if pending.records is None and (whole or self._complete(group, name, pending)):
                    pending.ended(self._save_records(name, group.cases[name], pending))

    def _complete(self, group: Group, name: str, pending: Pending) -> bool:
        """Whether resuming would measure nothing more of a case."""
        slots, case = self.schedule(group), group.cases[name]
        wanted = [s for s in slots if case.runs_on(s.environment.engine) and not pending.refused(s.environment.engine)]
        return all(_usable(pending, slots, slot) for slot in wanted)

    def _missing(self, group: Group, name: str, pending: Pending) -> int:
        """Planned launches of a case that gave no figures."""
        return pending.missing([e for e in self.environments if group.cases[name].runs_on(e.engine)], self.launches)

    def _measure_launches(self, group: Group, pendings: dict[str, Pending]) -> None:
        slots, broken = self.schedule(group), set[str]()
        for slot in slots:
            self.ahead.pop(0)
            engine = slot.environment.engine
            names = [name for name in group.turned(slot.pair) if group.cases[name].runs_on(engine)]
            where = f"launch {slot.order} of {len(slots)}: {engine}"
            if engine in broken:
                self.report(f"{where} skipped, it could not be started before")
                continue
            todo = [name for name in names if not _there(pendings[name], slots, slot)]
            if len(todo) < len(names):
                cases = "" if len(names) == 1 else f" with {len(names) - len(todo)} of {len(names)} cases"
                self.report(f"{where}{cases} is there from the interrupted run")
            for name in (refused := [name for name in todo if pendings[name].refused(engine)]):
                self.report(f"{where}{f': {name}' if len(names) > 1 else ''} skipped, it cannot do this")
            todo = [name for name in todo if name not in refused]
            while todo and engine not in broken:
                ended = self._launch(group, todo, slot, len(slots), pendings)
                if any(part.launch.error and not part.flags for part in ended):
                    broken.add(engine)
                todo = todo[len(ended) :]

    def _save_records(self, name: str, scenario: Scenario, pending: Pending) -> list[Path]:
        """A record for each engine that has a good launch, or with `failures` any; the failed ones stand in it too."""
        records = []
        for environment in self.environments:
            parts = list(pending.parts(environment.engine))
            if any(self.failures or part.launch.error is None for part in parts):
                path = store.save(self._record(pending.run, name, scenario, environment, parts), self.root)
                for part in parts:
                    store.keep(self.root / ".work" / "logs" / part.log, path)
                records.append(path)
        return records

    def _record(
        self, run: str, name: str, scenario: Scenario, environment: Environment, parts: Sequence[Part]
    ) -> Record:
        said = next((part for part in parts if part.launch.error is None), parts[0])
        variables = {key: self._anywhere(value) for key, value in said.flags.get("environment", {}).items()}
        words = [
            {key: self._anywhere(told) for key in ("error", "unsupported") if (told := getattr(part.launch, key))}
            for part in parts
        ]
        return Record(
            run=run,
            case=name,
            scenario=name.partition("/")[0],
            engine=environment.engine,
            params=scenario.params(),
            options=scenario.options.of("") | {"native": dict(scenario.options.native)},
            flags=said.flags | ({"environment": variables} if variables else {}),
            lane=environment.lane,
            versions=said.versions | {"driver": machine.fingerprint().driver},
            lock_hash=environment.lock_hash,
            machine=machine.fingerprint(),
            commit=commit.current(),
            started=parts[0].launch.started,
            ended=parts[-1].launch.ended,
            launches=[part.launch.model_copy(update=told) for part, told in zip(parts, words, strict=True)],
        )

    def _anywhere(self, text: str) -> str:
        return paths.anywhere(text, self.root)

    def _launch(
        self, group: Group, names: Sequence[str], slot: Slot, of: int, pendings: dict[str, Pending]
    ) -> list[Part]:
        """Measure these cases of a group in one launch; those that ended, the one that failed among them. Raises
        BudgetSpent before it where not even the first would end in time."""
        if not self._in_time(self.plan.seconds((names[0], slot.environment.engine))):
            raise BudgetSpent
        engine, started, ended = slot.environment.engine, time.monotonic(), dict[str, Part]()
        where, keys = f"launch {slot.order} of {of}", [(name, engine) for name in names]

        def tell(what: str) -> None:
            left = self.plan.total(self.ahead) + max(0.0, self.plan.seconds(*keys) - (time.monotonic() - started))
            self.tell(f"{where}: {engine}: {what}; about {spoken(left)} left")

        def save(name: str, part: Part) -> None:
            ended[name] = part
            pendings[name].save(engine, part)

        def fits(name: str) -> bool:
            return self._in_time(self.plan.own((name, engine)))

        cases = {name: group.cases[name] for name in names}
        Shift(slot, cases, len(group.cases) > 1, self.root / ".work", self.timeout, tell, save, fits).run()
        several = len(group.cases) > 1  # an engine that did not start is the error of all, told once
        lines = [_outcome(where, engine, n if several and part.flags else "", part.launch) for n, part in ended.items()]
        for line in dict.fromkeys(lines):
            self.report(line)
        for name, part in ended.items():
            if part.launch.error is None and part.launch.unsupported is None:
                self.plan.took((name, engine), part.launch)
        return list(ended.values())

    def _in_time(self, seconds: float) -> bool:
        return time.monotonic() + seconds <= self.until

    def _identity(self, name: str, scenario: Scenario) -> dict[str, Any]:
        return {
            "case": name,
            "params": scenario.params(),
            "options": scenario.options.of(""),
            "native": scenario.options.native,
            "launches": self.launches,
            "environments": [(e.engine, e.lane, e.python, e.lock_hash) for e in self.environments],
            "commit": (commit.current().id, commit.changes()),
            "machine": machine.fingerprint().same_kind(),
        }


def _heading(group: Group, done: int, of: int) -> str:
    """What is measured next, and how far that is in the run."""
    names, last = ", ".join(group.cases), done + len(group.cases)
    if len(group.cases) == 1:
        return f"case {names} ({last} of {of})"
    return f"cases {names} ({done + 1} to {last} of {of}), in turn in each launch"


def _left_out(group: Group, environments: Sequence[Environment]) -> Iterator[str]:
    """A line for each engine that some of the cases are not measured on."""
    for engine in (environment.engine for environment in environments):
        names = [name for name, case in group.cases.items() if not case.runs_on(engine)]
        if names:
            yield f"not run on {engine}, since they are another engine's own: {', '.join(names)}"


def _outcome(where: str, engine: str, case: str, launch: Launch) -> str:
    """The line that a launch leaves of a case, with the certificates that did not hold; the record has whole errors."""
    if launch.error:
        return f"{where}{case and f': {case}'} failed: {launch.error.splitlines()[0]}"
    if launch.unsupported:
        return f"{where}: {engine}{case and f': {case}'}: not supported: {launch.unsupported}"
    red = "; ".join(f"{name}: {c.reason}" for name, c in launch.certificates.items() if c.ok is False)
    seconds = (launch.ended - launch.started).total_seconds()
    return f"{where}: {engine}{case and f': {case}'} took {seconds:.0f} s{red and f', invalid ({red})'}"


def _there(pending: Pending, slots: Sequence[Slot], slot: Slot) -> bool:
    """Whether an interrupted run has left this launch of a case, or all of the case."""
    return pending.records is not None or _usable(pending, slots, slot)


def _usable(pending: Pending, slots: Sequence[Slot], slot: Slot) -> bool:
    """Whether this launch of an interrupted run is there and good, and its pair on one boot of one machine: whole, or
    begun on this one."""

    def boot(slot: Slot) -> str | None:
        part = pending.load(slot.environment.engine, slot.order)
        return part.launch.boot_id if part and part.launch.error is None else None

    boots = {boot(other) or machine.boot_id() for other in slots if other.pair == slot.pair}
    return boot(slot) is not None and len(boots) == 1

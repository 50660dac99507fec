"""Run cases: launches of all engines in ABBA order, each a fresh process group, each saved as soon as it has ended."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import commit, envs, machine, models, rates, store
from harness.envs import Environment
from harness.errors import LaunchFailed, UserError
from harness.measure import measure
from harness.pending import Part, Pending
from harness.plan import Key, Plan, spoken
from harness.record import Launch, Record
from harness.rig import Rig, log_path
from harness.scenario import Scenario
from harness.worker.__main__ import VERSIONED

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Slot:
    """A launch in a run: its place over all engines, and its pair."""

    order: int
    pair: int
    environment: Environment


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
    ahead: list[Key] = field(default_factory=list)  # case and engine of every launch still to come

    def schedule(self) -> list[Slot]:
        """ABBA: every second pair runs its engines the other way round, so that drift hits all alike."""
        slots: list[Slot] = []
        for pair in range(self.launches):
            for environment in self.environments if pair % 2 == 0 else reversed(self.environments):
                slots.append(Slot(len(slots) + 1, pair + 1, environment))
        return slots

    def keys(self, cases: Iterable[str]) -> list[Key]:
        """Case and engine of every launch, in order."""
        return [(name, slot.environment.engine) for name in cases for slot in self.schedule()]

    def cases(self, cases: dict[str, Scenario]) -> tuple[list[Path], int]:
        """Run them all; the records written, and how many planned launches gave no figures."""
        for scenario in cases.values():
            models.find(scenario.model)
        written, missing = [], 0
        self.ahead.extend(self.keys(cases))
        for at, (name, scenario) in enumerate(cases.items(), 1):
            self.report(f"case {name} ({at} of {len(cases)})")
            pending = Pending.open(self.root / ".work" / "pending", self._identity(name, scenario), self.resume)
            self.pendings.append(pending)
            if self.resume and not pending.resumed:
                self.report("nothing to resume: no interrupted run of the same case, options, engines and commit")
            if pending.records is None:
                self._measure_case(name, scenario, pending)
                pending.ended(self._save_records(name, scenario, pending))
            else:
                del self.ahead[: len(self.schedule())]
                self.report("its records are there from the interrupted run")
            written += pending.records or []
            missing += pending.missing(self.environments, self.launches)
        for pending in self.pendings:
            pending.remove()
        return written, missing

    @property
    def kept(self) -> int:
        """Finished launches that an interruption leaves for `--resume`."""
        return sum(pending.good(self.environments) for pending in self.pendings)

    def _measure_case(self, name: str, scenario: Scenario, pending: Pending) -> None:
        slots, broken = self.schedule(), dict[str, str]()
        for slot in slots:
            engine = self.ahead.pop(0)[1]
            if engine in broken:
                self.report(f"launch {slot.order} of {len(slots)}: {engine} skipped, {broken[engine]}")
                continue
            if _usable(pending, slots, slot):
                self.report(f"launch {slot.order} of {len(slots)}: {engine} is there from the interrupted run")
                part = pending.load(engine, slot.order)
            else:
                part = self._launch(name, scenario, slot, len(slots))
                pending.save(engine, part)
            if part and (why := _hopeless(part)):
                broken[engine] = why

    def _save_records(self, name: str, scenario: Scenario, pending: Pending) -> list[Path]:
        """A record for each engine that has a good launch; the failed ones stand in it too."""
        records = []
        for environment in self.environments:
            parts = list(pending.parts(environment.engine))
            if any(part.launch.error is None for part in parts):
                path = store.save(_record(pending.run, name, scenario, environment, parts), self.root)
                for part in parts:
                    store.keep(self.root / ".work" / "logs" / part.log, path)
                records.append(path)
        return records

    def _launch(self, name: str, scenario: Scenario, slot: Slot, of: int) -> Part:
        engine, before, started = slot.environment.engine, machine.state(), datetime.now(UTC)
        log = log_path(self.root / ".work" / "logs" / name / f"{started:%Y%m%dT%H%M%SZ}", engine, slot.order)

        def tell(what: str) -> None:
            spent = (datetime.now(UTC) - started).total_seconds()
            left = self.plan.total(self.ahead) + max(0.0, self.plan.seconds((name, engine)) - spent)
            self.tell(f"launch {slot.order} of {of}: {engine}: {what}; about {spoken(left)} left")

        launch = Launch(order=slot.order, pair=slot.pair, started=started, ended=started, boot_id=machine.boot_id())
        with Rig(slot.environment, scenario.model, scenario.options, log, self.timeout, tell) as rig:
            try:
                measure(rig, scenario, launch, tell)
            except LaunchFailed as error:
                launch.unsupported = scenario.refusal(f"{error}\n{_read(log)}")
                launch.error = None if launch.unsupported else str(error)
                how = f": {engine}: not supported: {launch.unsupported}" if launch.unsupported else f" failed: {error}"
                self.report(f"launch {slot.order} of {of}{how}")
        if slot.environment.device == "cuda":
            launch.facts["measured_rates"] = self._rates(slot.environment)
        launch.ended = datetime.now(UTC)
        launch.machine_state = {"before": before, "after": machine.state()}
        if launch.error is None and launch.unsupported is None:
            seconds = (launch.ended - started).total_seconds()
            self.plan.took((name, engine), seconds)
            self.report(f"launch {slot.order} of {of}: {engine} took {seconds:.0f} s{_red(launch)}")
        kept = str(log.relative_to(self.root / ".work" / "logs"))
        versions = rig.versions or (_versions(slot.environment) if launch.unsupported else {})
        return Part(launch=launch, flags=rig.flags, versions=versions, log=kept)

    def _rates(self, environment: Environment) -> Any:
        """What a copy and a matrix product reach on these GPUs, measured once a boot while no engine runs."""
        return rates.measured(environment.python, self.root / ".work", environment.paths)

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


def _hopeless(part: Part) -> str:
    """Why the engine need not be started again for this case; empty where it may."""
    if part.launch.unsupported:
        return "it cannot do this"
    return "it could not be started before" if part.launch.error and not part.flags else ""


def _versions(environment: Environment) -> dict[str, str]:
    """Of an engine that refused before it could say its own."""
    found = dict(line.split("==", 1) for line in envs.installed(environment.python).splitlines())
    shims = {"shims": environment.shims} if environment.shims else {}
    return {name: found[name] for name in VERSIONED if name in found} | shims


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.is_file() else ""


def _red(launch: Launch) -> str:
    """The certificates that did not hold, for the line that a launch leaves."""
    red = [f"{name}: {c.reason}" for name, c in launch.certificates.items() if c.ok is False]
    return f", invalid ({'; '.join(red)})" if red else ""


def _usable(pending: Pending, slots: Sequence[Slot], slot: Slot) -> bool:
    """Whether this launch of an interrupted run is there and good, and its pair on one boot of one machine: whole, or
    begun on this one."""

    def boot(slot: Slot) -> str | None:
        part = pending.load(slot.environment.engine, slot.order)
        return part.launch.boot_id if part and part.launch.error is None else None

    boots = {boot(other) or machine.boot_id() for other in slots if other.pair == slot.pair}
    return boot(slot) is not None and len(boots) == 1


def _record(run: str, name: str, scenario: Scenario, environment: Environment, parts: Sequence[Part]) -> Record:
    said = next(part for part in parts if part.launch.error is None)
    return Record(
        run=run,
        case=name,
        scenario=name.partition("/")[0],
        engine=environment.engine,
        params=scenario.params(),
        options=scenario.options.of("") | {"native": dict(scenario.options.native)},
        flags=said.flags,
        lane=environment.lane,
        versions=said.versions | {"driver": machine.fingerprint().driver},
        lock_hash=environment.lock_hash,
        machine=machine.fingerprint(),
        commit=commit.current(),
        started=parts[0].launch.started,
        ended=parts[-1].launch.ended,
        launches=[part.launch for part in parts],
    )


@contextmanager
def alone(wait: bool, report: Tell) -> Iterator[None]:
    """Hold the machine: two runs at once would measure each other. Raises UserError when another holds it and `wait` is
    not set. The lock is one file for all users, `$ROLLBENCH_LOCK` or /tmp/rollbench.lock."""
    path = Path(os.environ.get("ROLLBENCH_LOCK", "/tmp/rollbench.lock"))
    path.touch()
    with contextlib.suppress(PermissionError):
        path.chmod(0o666)
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = f"another run (process {file.read().strip() or '?'}) is measuring on this machine"
            if not wait:
                raise UserError(
                    f"{holder}: two at once would measure each other; leave --no-wait out to wait"
                ) from None
            report(f"{holder}: waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield

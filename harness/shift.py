"""One launch of an engine: its cases are measured one after another, and each is saved as soon as it has ended."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness import envs, machine, rates
from harness.envs import Environment
from harness.errors import LaunchFailed
from harness.measure import Measured, fill, measure
from harness.pending import Part
from harness.record import Certificate, Launch
from harness.rig import Rig, log_path
from harness.scenario import Scenario
from harness.series import Series
from harness.worker.__main__ import VERSIONED

Tell = Callable[[str], None]
NOT_ENDED = Certificate(ok=None, figure=0, reason="the launch had not ended when this was written")
INTERRUPTED = "it was interrupted"


@dataclass(frozen=True)
class Slot:
    """A launch in a run: its place over all engines, and its pair."""

    order: int
    pair: int
    environment: Environment


@dataclass
class Shift:
    """A launch of the engine of `slot`, for cases of equal engine settings in the order given. `shared`: the run has
    several such cases, and the records say so. `work`: the folder of logs and of what is not done yet. `save` is given
    each case that has ended, and again when more is known of it. The launch ends before a case, the first excepted,
    that `fits` says there is no time for."""

    slot: Slot
    cases: Mapping[str, Scenario]
    shared: bool
    work: Path
    timeout: float
    tell: Tell
    save: Callable[[str, Part], None]
    fits: Callable[[str], bool] = lambda name: True
    measured: list[Measured] = field(default_factory=list)
    failed: list[Measured] = field(default_factory=list)

    def run(self) -> None:
        """Measure all cases, or those up to the first that fails, which gets its error. An engine that could not be
        started is the error of every case."""
        began, case = datetime.now(UTC), next(iter(self.cases.values()))
        turns = [self._turn(name, place, began) for place, name in enumerate(self.cases, 1)]
        with Rig(
            self.slot.environment, case.model, case.options, turns[0].log, self.timeout, self.tell, case.gpus
        ) as rig:  # fmt: skip
            self._measure(rig, turns)
        for turn in self.failed or self.measured[-1:]:
            _stop(turn.launch)
        environment, ended = self.slot.environment, self.measured + self.failed
        if environment.device == "cuda":  # what a copy and a matrix product reach, once a boot while no engine runs
            found = rates.measured(environment.python, self.work, environment.paths)
            for turn in ended:
                turn.launch.facts["measured_rates"] = found
        for turn in ended:
            self._save(rig, turn)

    def _turn(self, name: str, place: int, began: datetime) -> Measured:
        slot = self.slot
        log = log_path(self.work / "logs" / name / f"{began:%Y%m%dT%H%M%SZ}", slot.environment.engine, slot.order)
        launch = Launch(
            order=slot.order, pair=slot.pair, started=began, ended=began, boot_id=machine.boot_id(),
            machine_state={"before": machine.state()},
        )  # fmt: skip
        if self.shared:
            launch.facts["shared"] = {"cases": list(self.cases), "position": place}
        return Measured(name, self.cases[name], log, launch)

    def _measure(self, rig: Rig, turns: list[Measured]) -> None:
        why, error = INTERRUPTED, ""
        try:
            if self.slot.pair == 1:
                turns[0].scenario.prepare(rig)
            rig.worker  # noqa: B018, starts it
            for turn in turns:
                if self.measured and not self.fits(turn.name):
                    break
                self._measure_one(rig, turn)
            why = ""
        except LaunchFailed as failure:
            error = str(failure)
            self.failed = turns[len(self.measured) :][: 1 if rig.flags else None]
            why = f"{self.failed[0].name}: {error.splitlines()[0]}"
        finally:
            for turn in self.failed:
                turn.launch.unsupported = turn.scenario.refusal(f"{error}\n{_read(turns[0].log)}")
                turn.launch.error = None if turn.launch.unsupported else error
            self._end(rig, why)

    def _measure_one(self, rig: Rig, turn: Measured) -> None:
        place = f"{turn.name} ({turn.shared['position']} of {len(self.cases)}): " if self.shared else ""
        rig.tell = lambda what: self.tell(place + what)
        if self.measured:
            turn.launch.started, turn.launch.machine_state = datetime.now(UTC), {"before": machine.state()}
        measure(rig, turn, rig.tell)
        _stop(turn.launch)
        self._fill(rig, turn, rig.series(ended=False), NOT_ENDED)
        self._save(rig, turn)
        self.measured.append(turn)

    def _end(self, rig: Rig, why: str) -> None:
        """End the engine, and say of every case what is known only now. `why`: what went wrong."""
        if self.measured:
            self.tell("waiting for it to end")
            clean, series = rig.shut_down(why), rig.series()
            for turn in self.measured:
                self._fill(rig, turn, series, clean)
                self._save(rig, turn)

    def _fill(self, rig: Rig, turn: Measured, series: Series, clean: Certificate) -> None:
        fill(turn, series, rig.began, clean)
        if (copy := turn.log.with_suffix(".series.jsonl")) != rig.series_path:
            shutil.copyfile(rig.series_path, copy)

    def _save(self, rig: Rig, turn: Measured) -> None:
        log = str(turn.log.relative_to(self.work / "logs"))
        versions = rig.versions or (_versions(self.slot.environment) if turn.launch.unsupported else {})
        self.save(turn.name, Part(launch=turn.launch, flags=rig.flags, versions=versions, log=log))


def _versions(environment: Environment) -> dict[str, str]:
    """Of an engine that refused before it could say its own."""
    found = dict(line.split("==", 1) for line in envs.installed(environment.python).splitlines())
    shims = {"shims": environment.shims} if environment.shims else {}
    return {name: found[name] for name in VERSIONED if name in found} | shims


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.is_file() else ""


def _stop(launch: Launch) -> None:
    launch.ended, launch.machine_state["after"] = datetime.now(UTC), machine.state()

"""A gate's session: base and head run in turn on one machine, each launch by its own tree's harness in its own
environments (docs/adr/0010). What comes back are records, which are put together as if one run had made them."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import cells, gate, groups, scenario, store, trees
from harness.cells import Failure, Key, Side
from harness.errors import UserError
from harness.gate import Cell, Looks, Row, Verdict
from harness.plan import spoken
from harness.record import Record
from harness.trees import Tree

Tell = Callable[[str], None]
BASE, HEAD, CONTROL = "base", "head", "control"
ENDING = 40.0  # seconds that an interrupted launch gets to end its engine
CONTROL_ALPHA = 0.01  # of a session's control: what it voids is dear
SELECT = """
import json, sys
from harness import machine, scenario
from harness.errors import UserError
told = {"known": [*scenario.cases()], "chosen": [], "why": ""}
try:
    told["chosen"] = [*scenario.select(sys.argv[1:], len(machine.gpu_names()))]
except UserError as error:
    told["why"] = str(error)
print(json.dumps(told))
"""


@dataclass
class Session:
    """`folder` keeps everything: launches/ as they came, base/, head/ and control/ as records of one run. `control`:
    the base is measured a second time in the first cases, as if it were the head."""

    sides: dict[str, Tree]
    names: Sequence[str]
    engines: Sequence[str]
    looks: Looks
    blocking: Callable[[Sequence[Cell]], list[Cell]]  # which cells block
    folder: Path
    timeout: float
    tell: Tell
    report: Tell
    control: bool = True
    resume: bool = False
    shared: bool = False  # launches count although others used the machine
    pythons: dict[str, str] = field(default_factory=dict)
    records: dict[tuple[str, Key], list[tuple[int, Record]]] = field(default_factory=dict)  # side, key: pair, record
    failures: list[tuple[str, Failure]] = field(default_factory=list)
    known: dict[str, set[str]] = field(default_factory=dict)  # side: its cases
    began: dict[str, int] = field(default_factory=dict)  # first case of a group: pairs begun
    took: list[float] = field(default_factory=list)

    def run(self) -> list[Row]:
        """Measure and judge; the rows, void where the control moved. Raises UserError when a side cannot be run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._prepare()
        shared = self._groups()
        for place, group in enumerate(shared):
            self._measure(group, self.looks.pairs, self.engines, controlled=self.control and place == 0)
        rows = self._judge()
        for group in shared if self.looks.more else ():
            if engines := [engine for engine in self.engines if self._open(rows, group, engine)]:
                self.report(f"inconclusive: {', '.join(group)}: {self.looks.more} further pairs, as planned")
                self._measure(group, self.looks.pairs + self.looks.more, engines, self.control and group == shared[0])
        self._save()
        return self._judge()

    def side(self, name: str) -> Side:
        """What was measured of a side so far."""
        keys = {key for where, key in self.records if where == name}
        failures = dict[Key, list[Failure]]()
        for where, failure in self.failures:
            if where == name:
                failures.setdefault((failure.case, failure.engine), []).append(failure)
        return Side(name, {key: self._whole(name, key) for key in keys}, failures)

    @property
    def controls(self) -> list[Row]:
        """The base against itself."""
        if not any(where == CONTROL for where, _ in self.records):
            return []
        return controls(self.side(BASE), self.side(CONTROL), self.shared)

    def _judge(self) -> list[Row]:
        found = self.blocking(cells.cells(self.side(BASE), self.side(HEAD), shared=self.shared))
        return trusted(gate.judge(found, self.looks), self.controls)

    def _open(self, rows: Sequence[Row], group: Sequence[str], engine: str) -> bool:
        """Whether a cell of these cases that blocks is inconclusive for want of launches."""
        mine = (row for row in rows if row.cell.case in group and row.cell.engine == engine and row.cell.blocks)
        return any(row.verdict == Verdict.INCONCLUSIVE and row.cell.tested for row in mine)

    def _prepare(self) -> None:
        """Interpreters of all sides, built where they are missing."""
        for name, tree in self.sides.items():
            self.pythons[name] = trees.light(tree, self.report)
            for engine in self.engines:
                self.tell(f"{name}: the environment of {engine}")
                done = self._ask(name, ["-m", "harness.cli", "env", engine])
                if done.returncode:
                    raise UserError(f"{name} ({tree.name}): no environment for {engine}: {_last(done.stderr)}")

    def _ask(self, side: str, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        tree = self.sides[side]
        command = [self.pythons[side], *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tree.path, env=tree.variables())

    def _groups(self) -> list[list[str]]:
        """The cases of either side; those that share a launch together."""
        found, why = list[str](), ""
        for side in (BASE, HEAD):
            done = self._ask(side, ["-c", SELECT, *self.names])
            if done.returncode:
                raise UserError(f"{side} ({self.sides[side].name}) does not run: {_last(done.stderr)}")
            told = json.loads(done.stdout.splitlines()[-1])
            self.known[side], why = set(told["known"]), told["why"]
            found += [name for name in told["chosen"] if name not in found]
        if not found:
            raise UserError(why)
        known = scenario.cases()
        together = groups.grouped({name: known[name] for name in found if name in known})
        return [list(group.cases) for group in together] + [[name] for name in found if name not in known]

    def _measure(self, names: Sequence[str], pairs: int, engines: Sequence[str], controlled: bool) -> None:
        """Pairs of launches until there are so many in which the machine spoilt nothing, or half as many more."""
        while self.began.get(names[0], 0) < pairs + max(2, pairs // 2):
            turns = [
                (engine, side)
                for engine in engines
                if self._lacks(names, engine, pairs)
                for side in ((BASE, HEAD, CONTROL) if controlled else (BASE, HEAD))
            ]
            if not turns:
                return
            pair = self.began[names[0]] = self.began.get(names[0], 0) + 1
            for engine, side in turns if pair % 2 else reversed(turns):
                known = self.known[HEAD if side == HEAD else BASE]
                mine = [name for name in names if name in known and not self._refused((name, engine), side)]
                if mine:
                    left = self._left(len(turns), max(0, pairs - pair))
                    self.tell(f"pair {pair}, {pairs} wanted: {engine}: {side}: {', '.join(mine)}{left}")
                    self._launch(mine, engine, side, pair)

    def _lacks(self, names: Sequence[str], engine: str, pairs: int) -> bool:
        """Whether further pairs are wanted: fewer than so many count, and no side has failed twice before it ever gave
        a figure. What only one side has is measured once."""
        both = [(name, engine) for name in names if name in self.known[BASE] & self.known[HEAD]]
        if not both:
            return not self.began.get(names[0])
        for side in (BASE, HEAD):
            dead = [failure for where, failure in self.failures if where == side and failure.engine == engine]
            if any(sum((f.case, engine) == key for f in dead) > 1 and (side, key) not in self.records for key in both):
                return False
        able = [key for key in both if not self._refused(key, BASE, HEAD)]
        return any(len(self._good(BASE, key) & self._good(HEAD, key)) < pairs for key in able)

    def _refused(self, key: Key, *sides: str) -> bool:
        """Whether the engine said on one of these sides that it cannot do this at all."""
        return any(record.unsupported for side in sides for _, record in self.records.get((side, key), ()))

    def _good(self, side: str, key: Key) -> set[int]:
        found = self.records.get((side, key), [])
        return {pair for pair, record in found if cells.counted(record, self.shared)}

    def _left(self, turns: int, pairs: int) -> str:
        mean = sum(self.took) / len(self.took) if self.took else 0
        return f"; about {spoken(turns * (pairs + 1) * mean)} left of these" if mean else ""

    def _launch(self, names: Sequence[str], engine: str, side: str, pair: int) -> None:
        """One launch by the side's own harness. Cases of one launch begin with another in each pair."""
        first = (pair - 1) % len(names)
        turned = [*names[first:], *names[:first]]
        folder = self.folder / "launches" / f"{_slug(names)}-{pair:02}-{engine}-{side}"
        log, begun = folder / "output.log", time.monotonic()
        if not (self.resume and (folder / "ended").exists()):
            self._process(
                side, ["run", *turned, "-e", engine, "--launches", "1", "--timeout", f"{self.timeout:g}"], folder
            )
            self.took.append(time.monotonic() - begun)
        found = {record.case: record for _, record in store.scan(folder) if isinstance(record, Record)}
        for name in names:
            if name in found:
                self.records.setdefault((side, (name, engine)), []).append((pair, found[name]))
                self.report(f"pair {pair}: {engine}: {side}: {name}: {_told(found[name])}")
            else:
                error = _error(log)
                self.failures.append((side, Failure(case=name, engine=engine, pair=pair, error=error, log=str(log))))
                self.report(f"pair {pair}: {engine}: {side}: {name} failed: {error}")

    def _process(self, side: str, arguments: Sequence[str], folder: Path) -> None:
        """Run a tree's command line; its output goes to a log. An interruption waits until it has cleaned up."""
        tree = self.sides[BASE if side == CONTROL else side]
        folder.mkdir(parents=True, exist_ok=True)
        variables = tree.variables() | {"ROLLBENCH_LOCK": str(self.folder / "lock")}  # the session holds the machine
        command = [
            self.pythons[BASE if side == CONTROL else side],
            "-m",
            "harness.cli",
            *arguments,
            "--results",
            str(folder),
        ]
        with (folder / "output.log").open("w") as log:
            child = subprocess.Popen(
                command, cwd=tree.path, env=variables, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
            try:
                child.wait()
            except BaseException:
                child.terminate()
                child.wait(ENDING)
                raise
        (folder / "ended").touch()

    def _whole(self, side: str, key: Key) -> Record:
        """The launches of a side as one record, numbered by pair."""
        parts = sorted(self.records[side, key], key=lambda part: part[0])
        launches = [
            launch.model_copy(update={"order": order, "pair": pair})
            for order, (pair, record) in enumerate(parts, 1)
            for launch in record.launches
        ]
        told = {"run": self.folder.name, "launches": launches, "ended": parts[-1][1].ended}
        return parts[0][1].model_copy(update=told)

    def _save(self) -> None:
        for name in (BASE, HEAD, CONTROL):
            side = self.side(name)
            for record in side.records.values():
                store.save(record, self.folder / name)
            if side.failures:
                lines = [f.model_dump_json() for found in side.failures.values() for f in found]
                store.write(self.folder / name / cells.FAILED, "\n".join(lines) + "\n")


def controls(base: Side, again: Side, shared: bool = False) -> list[Row]:
    """The base against itself."""
    both = Side(base.where, {key: record for key, record in base.records.items() if key in again.records})
    return gate.judge(cells.cells(both, again, shared=shared), Looks(alpha=CONTROL_ALPHA))


def trusted(rows: list[Row], controls: Sequence[Row]) -> list[Row]:
    """The rows, void where a figure that blocks differs between the base and itself."""
    for row in controls:
        if row.flagged and row.cell.blocks and row.cell.metric:
            what = f"{row.cell.case} on {row.cell.engine}, {row.cell.metric.title}"
            why = f"the base against itself differs ({what}): the machine was not fit to measure on"
            return gate.distrust(rows, why)
    return rows


def _slug(names: Sequence[str]) -> str:
    return names[0].replace("/", "_") + (f"+{len(names) - 1}" if len(names) > 1 else "")


def _told(record: Record) -> str:
    for launch in record.launches:
        if launch.unsupported:
            return f"not supported: {launch.unsupported}"
        red = "; ".join(f"{name}: {c.reason}" for name, c in launch.certificates.items() if c.ok is False)
        return f"{(launch.ended - launch.started).total_seconds():.0f} s" + (f", does not hold: {red}" if red else "")
    return "no launch"


def _last(text: str) -> str:
    return ([line for line in text.splitlines() if line.strip()] or ["it said nothing"])[-1]


def _error(log: Path) -> str:
    """What a launch died of: the line that says so, else the last of its output."""
    text = log.read_text(errors="replace")
    said = (line.partition("failed: ")[2] for line in text.splitlines() if line.startswith("launch 1 of 1"))
    return next(filter(None, said), "") or _last(text)

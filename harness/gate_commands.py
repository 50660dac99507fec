"""The commands that guard a change: gate, calibrate."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness import (
    calibrate,
    cells,
    gate,
    lock,
    machine,
    rivals,
    session,
    store,
    tables,
    trees,
    verdicts,
)  # fmt: skip
from harness.compare import plain
from harness.envs import PAIR
from harness.errors import UserError, nearest
from harness.gate import Cell, Looks, Row
from harness.metrics import METRICS
from harness.paths import PROJECT, results_home
from harness.progress import progress
from harness.record import Record
from harness.screen import console, print_table, say, stop, warn
from harness.session import Session
from harness.trees import Tree
from harness.verdicts import Report

ALPHA, PAIRS = 0.05, 5
SHARED = "launches count although others used the machine: only their order in pairs stands against that"
SKIP = 125  # what `git bisect run` takes for a commit that cannot be told
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Simulated:
    """What `rollbench calibrate` was asked for."""

    pairs: Sequence[int]
    effects: Sequence[float]
    metric: str
    cells: int
    trials: int
    rivals: bool


def add(app: typer.Typer) -> None:
    """Give the command line these commands."""
    app.command("gate")(hold_against)
    app.command("calibrate")(show_calibration)


def hold_against(
    base: Annotated[str | None, typer.Argument(help="Commit to hold against; with --records its records.")] = None,
    head: Annotated[str | None, typer.Argument(help="Commit to judge; with --records its records.")] = None,
    records: Annotated[bool, typer.Option("--records", help="BASE and HEAD are records or folders of them.")] = False,
    base_tree: Annotated[Path | None, typer.Option("--base", help="A tree instead of a commit.")] = None,
    head_tree: Annotated[Path | None, typer.Option("--head", help="A tree instead of a commit; as it is.")] = None,
    case: Annotated[list[str] | None, typer.Option("--case", "-c", help="As in `rollbench run`; repeat it.")] = None,
    engine: Annotated[list[str] | None, typer.Option("--engine", "-e", help="vllm, sglang or fake; repeat it.")] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Pairs of launches (5; with --records all there are).")
    ] = None,
    more: Annotated[int, typer.Option(min=0, help="Further pairs where it is inconclusive then; costs alpha.")] = 0,
    alpha: Annotated[float, typer.Option(min=0.0001, max=0.5, help="Chance of any false alarm.")] = ALPHA,
    block: Annotated[list[str] | None, typer.Option(help="Only this metric blocks; repeat it.")] = None,
    control: Annotated[
        bool, typer.Option("--control/--no-control", help="Measure the base against itself too, in the first cases.")
    ] = True,
    apart: Annotated[bool, typer.Option("--apart", help="Judge records that were not measured together.")] = False,
    shared: Annotated[
        bool, typer.Option("--shared-machine", help="Count launches although others used the machine (load, gpu).")
    ] = False,
    inconclusive_ok: Annotated[bool, typer.Option("--inconclusive-ok", help="End 0 where 3 is due.")] = False,
    shadow: Annotated[bool, typer.Option("--shadow", help="Report, and end 0 whatever it says.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Rows that inform too.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the table for a pull request to this file.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of a session's records and logs (default .rollbench/gate/…).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take launches that are in --out already.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that any one call to an engine may take.")] = 900,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Refuse when another run holds the machine.")] = False,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="For `git bisect run`: end 125 (skip) where 3 is due.")
    ] = False,
) -> None:
    """Say whether HEAD is worse than BASE: both measured in turn in one session, or from records.

    Ends 0 (pass, improve), 1 (regress), 2 (a mistake), 3 (inconclusive, invalid). docs/gate.md has the rules.

    \b
    rollbench gate main HEAD                            the main job of this machine, both engines
    rollbench gate main HEAD -c weight_sync -e vllm     one scenario on one engine
    rollbench gate --base ../main --head .              two trees, without git
    rollbench gate --records OUT/base OUT/head          a session's records once more
    """
    if unknown := [name for name in block or () if name not in METRICS]:
        raise UserError(f"no metric {unknown[0]!r}: {nearest(unknown[0], METRICS)}")
    asked = Asked(case or (), engine or (), Looks(pairs or (0 if records else PAIRS), more, alpha),
                  block or (), out, apart, shared)  # fmt: skip
    try:
        if records:
            report = asked.of_records(base, head)
        else:
            sides = _sides(base, head, base_tree, head_tree)
            with lock.alone(not no_wait, say), progress(console) as tell:
                report = asked.measured(sides, control, resume, timeout, tell)
    except UserError as error:
        if bisect:
            stop(str(error), SKIP)
        raise
    console.print(verdicts.table(report, everything))
    for line in verdicts.evidence(report):
        say(str(plain(line)))
    code = gate.EXIT[report.verdict]
    code = 0 if shadow or (inconclusive_ok and code == 3) else SKIP if bisect and code == 3 else code
    if markdown:
        store.write(markdown, verdicts.markdown(report, everything))
    if junit:
        store.write(junit, verdicts.junit(report, inconclusive_ok))
    if as_json:
        store.write(as_json, verdicts.as_json(report))
    if code:
        raise typer.Exit(code)


@dataclass(frozen=True)
class Asked:
    """What `rollbench gate` was asked for."""

    cases: Sequence[str]
    engines: Sequence[str]
    looks: Looks
    block: Sequence[str]
    out: Path | None
    apart: bool
    shared: bool

    def of_records(self, base: str | None, head: str | None) -> Report:
        """From records. A folder `control` beside the base's folder `base` holds the base's second measurement."""
        if not base or not head:
            raise UserError("gate --records takes two records or folders of records: BASE HEAD")
        sides = [cells.read(Path(path), self.cases, self.engines) for path in (base, head)]
        found = self._blocking(cells.cells(sides[0], sides[1], self.apart, self.shared))
        rows, controls = gate.judge(found, self.looks), list[Row]()
        if (again := Path(base).parent / session.CONTROL).is_dir() and Path(base).name == session.BASE:
            controls = session.controls(sides[0], cells.read(again), self.shared)
            rows = session.trusted(rows, controls)
        old, new = (verdicts.label(name, *side.commits) for name, side in zip((base, head), sides, strict=True))
        notes = [f"skipped {reason}" for side in sides for reason in side.skipped]
        notes += cells.upgrades(*sides) + ([SHARED] if self.shared else [])
        return Report(old, new, rows, self.looks, lambda case, engine: self._again(base, head, case, engine, True),
                      controls, notes)  # fmt: skip

    def measured(self, sides: dict[str, Tree], control: bool, resume: bool, timeout: float, tell: Tell) -> Report:
        """By a session on this machine."""
        trees = [sides[session.BASE], sides[session.HEAD]]
        name = "-".join([f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}", *(tree.commit.id[:8] for tree in trees)])
        folder = (self.out or PROJECT / ".rollbench" / "gate" / name).resolve()
        running = Session(sides, self.cases, self.engines or PAIR, self.looks, self._blocking, folder, timeout,
                          tell, say, control, resume, self.shared)  # fmt: skip
        rows = running.run()
        old, new = (verdicts.label(tree.name, tree.commit) for tree in trees)
        notes = cells.upgrades(running.side(session.BASE), running.side(session.HEAD))
        notes += [f"records and logs: {folder}", *([SHARED] if self.shared else [])]
        asked = [tree.name if Path(tree.name).is_dir() else tree.commit.id[:12] for tree in trees]
        return Report(old, new, rows, self.looks,
                      lambda case, engine: self._again(asked[0], asked[1], case, engine, False),
                      running.controls, notes)  # fmt: skip

    def _blocking(self, found: Sequence[Cell]) -> list[Cell]:
        """With the metrics that block as they were asked for."""
        return [
            replace(cell, metric=replace(cell.metric, blocks=cell.metric.name in self.block))
            if self.block and cell.metric
            else cell
            for cell in found
        ]

    def _again(self, base: str, head: str, case: str, engine: str, records: bool) -> str:
        """The command that gives this row again."""
        sides = ["--records", base, head] if records else [base, head]
        if not records and Path(base).is_dir():
            sides = ["--base", base, "--head", head]
        looks = [f"--pairs={self.looks.pairs}"] if self.looks.pairs else []
        looks += [f"--more={self.looks.more}"] if self.looks.more else []
        blocks = [f"--block={name}" for name in self.block] + (["--apart"] if self.apart else [])
        blocks += ["--shared-machine"] if self.shared else []
        return shlex.join(["rollbench", "gate", *sides, "-c", case, "-e", engine, *looks, *blocks])


def _sides(base: str | None, head: str | None, base_tree: Path | None, head_tree: Path | None) -> dict[str, Tree]:
    """Two commits, or two trees. Raises UserError for anything else."""
    if base_tree and head_tree and not base:
        return {session.BASE: trees.of_folder(base_tree), session.HEAD: trees.of_folder(head_tree)}
    if base_tree or head_tree:
        raise UserError("gate takes two commits, BASE HEAD, or two trees, --base DIR --head DIR")
    if not base:
        raise UserError("gate takes what to hold against and what to judge: `rollbench gate main HEAD`")
    return {session.BASE: trees.of_commit(base), session.HEAD: trees.of_commit(head or "HEAD")}


def show_calibration(
    records: Annotated[
        list[Path] | None, typer.Argument(help="Records or folders of them; none: this machine's results.")
    ] = None,
    launch_spread: Annotated[
        float | None, typer.Option(min=0, help="Assume this spread between launches (0.02 is 2 %), read no records.")
    ] = None,
    inner_spread: Annotated[float, typer.Option(min=0, help="Inside a launch, where it is assumed.")] = 0.01,
    drift: Annotated[float, typer.Option(help="Of the machine over a whole session.")] = 0.01,
    samples: Annotated[int, typer.Option(min=1, help="Samples a launch, where they are assumed.")] = 8,
    pairs: Annotated[list[int] | None, typer.Option(min=2, help="Pairs of launches; repeat it.")] = None,
    effect: Annotated[list[float] | None, typer.Option(min=0, help="A planted slowdown; repeat it.")] = None,
    metric: Annotated[str, typer.Option(help="Its tolerance and spread are simulated.")] = "output_throughput",
    cells: Annotated[int, typer.Option(min=1, help="Cells that block together, where none are read.")] = 20,
    trials: Annotated[int, typer.Option(min=1, help="Simulated gates for each figure.")] = 2000,
    shared: Annotated[bool, typer.Option("--shared-machine", help="As in `rollbench gate`.")] = False,
    others: Annotated[bool, typer.Option("--rivals", help="What other tools say of the same sessions.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables as GitHub shows them.")] = False,
) -> None:
    """Say how many pairs of launches a gate needs on this machine: false alarms and power, by simulation.

    \b
    rollbench calibrate                                      from the spread of this machine's own records
    rollbench calibrate gate/base gate/control               of an A/A session alone
    rollbench calibrate --launch-spread 0.02 --rivals        of an assumed spread, beside other tools
    """
    if metric not in METRICS:
        raise UserError(f"no metric {metric!r}: `rollbench show RECORD` names those of a record")
    by, effects = pairs or [3, 5, 8, 12], effect or [0.05, 0.10, 0.20]
    if launch_spread is not None:
        noises = {"assumed": calibrate.Noise(launch_spread, inner_spread, drift, samples)}
    else:
        found = calibrate.spreads(_read(records or [results_home()], everything=bool(records)), shared)
        if not found:
            raise UserError("no records with two launches that count: `rollbench run` makes them")
        print_table(tables.of_spreads(found, by, ALPHA), markdown)
        cells = len(found)
        noises = {
            f"{engine}, {case}": spread.noise(drift) for (case, engine, name), spread in found.items() if name == metric
        }
    plan = Simulated(by, effects, metric, cells, trials, others)
    with progress(console) as tell:
        for about, noise in noises.items():
            for table in _simulate(plan, about, noise, tell):
                print_table(table, markdown)


def _simulate(plan: Simulated, about: str, noise: calibrate.Noise, tell: Callable[[str], None]) -> Iterator[Table]:
    """The gate's table, and one of the other tools on the same sessions."""
    about = f"{about}: {noise.launch:.1%} between launches, {noise.inner:.1%} inside, drift {noise.drift:.1%}"
    found = []
    for pairs in plan.pairs:
        tell(f"{about}: {pairs} pairs")
        found.append(calibrate.rates(noise, METRICS[plan.metric], pairs, plan.effects, plan.cells, plan.trials))
    yield tables.of_rates(found, plan.cells, plan.trials, about)
    if plan.rivals:
        tell(f"{about}: other tools")
        yield tables.of_rivals(
            {
                (name, pairs): rivals.rates(name, noise, pairs, plan.effects[0], plan.cells, plan.trials)
                for name in rivals.RIVALS
                for pairs in plan.pairs
            },
            plan.cells, plan.effects[0],
        )  # fmt: skip


def _read(paths: list[Path], everything: bool) -> list[Record]:
    """Records of these files and folders; only this machine's, unless they were named."""
    found = list[Record]()
    for path in paths:
        for _, record in [(path, store.load(path))] if path.is_file() else store.scan(path):
            if isinstance(record, str):
                warn(f"skipped {record}")
            elif everything or record.machine.id == machine.fingerprint().id:
                found.append(record)
    return found

"""`rollbench matrix`: the features that records prove, and the probes that make the missing ones."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from harness import envs, evidence, groups, lock, machine, matrix, plan, runner, scenario, standings, store
from harness.envs import PAIR
from harness.errors import LaunchFailed, UserError, nearest
from harness.matrix import Row
from harness.paths import results_home
from harness.probes import PROBES, Probe
from harness.progress import progress
from harness.screen import Results, console, say, stop, warn
from harness.standings import Standing

Pairs = list[tuple[str, str]]  # case and engine


def add(app: typer.Typer) -> None:
    """Give the command line this command."""
    app.command("matrix")(show_matrix)


def show_matrix(
    feature: Annotated[
        list[str] | None, typer.Option("--feature", help="Only this row, or a pattern (`sleep*`); repeat it.")
    ] = None,
    engine: Annotated[list[str] | None, typer.Option("--engine", "-e", help="vllm, sglang or fake; repeat it.")] = None,
    run: Annotated[bool, typer.Option("--run", help="Measure what is missing: one launch of each case.")] = False,
    limit: Annotated[float, typer.Option(min=1, help="Seconds that a probe may take.")] = 900,
    everywhere: Annotated[bool, typer.Option("--all", help="A table for each machine that has records.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables as GitHub shows them.")] = False,
    results: Results = None,
) -> None:
    """Show which features work on which engine, as the records of this machine prove.

    yes: launches of a case ended well and their certificates hold. no: the engine refuses, in its own words. invalid: a
    certificate does not hold. failed: the launch did, with the error that it names. The others have no record.

    \b
    rollbench matrix                                  what the records say
    rollbench matrix --run                            measure each cell that is neither yes nor no
    rollbench matrix --run --feature GRPO -e vllm     for one cell
    """
    probes, engines = _chosen(feature or ()), [envs.known(name) for name in dict.fromkeys(engine or PAIR)]
    root, here = (results or results_home()).resolve(), machine.fingerprint()
    failed = (
        _measure(matrix.rows(probes, engines, _standings(root, here.id), len(here.gpus)), root, limit) if run else 0
    )
    found = _standings(root)
    gpus = {here.id: len(here.gpus)}
    for one in found if everywhere else ():
        gpus.setdefault(one.key.machine, max(len(record.machine.gpus) for record in one.records.values()))
    for name, count in gpus.items():
        mine = [one for one in found if one.key.machine == name]
        _show(f"features on {name}", matrix.rows(probes, engines, mine, count), root, markdown)
    if failed:
        stop(f"{failed} probe(s) gave no figures, why stands above; logs: {root / '.work' / 'logs'}", 1)


def _chosen(names: Sequence[str]) -> list[Probe]:
    """The rows of these names or patterns; all without one. Raises UserError for a name that fits none."""
    chosen: dict[str, Probe] = {}
    for name in names or ["*"]:
        fitting = {known: probe for known, probe in PROBES.items() if fnmatchcase(known.lower(), name.lower())}
        if not fitting:
            raise UserError(f"no feature {name!r}: {nearest(name, PROBES)}")
        chosen |= fitting
    return list(chosen.values())


def _standings(root: Path, only: str = "") -> list[Standing]:
    """Of one machine, or of all."""
    found = evidence.read(root)
    kept = [one for one in standings.standings(found) if not only or one.key.machine == only]
    for why in () if only else found.skipped:
        warn(f"passed over: {why}")
    return kept


def _measure(rows: Sequence[Row], root: Path, limit: float) -> int:
    """A launch for each cell that a probe could fill, each case once an engine, or one for several cases that share it;
    how many gave no figures."""
    wanted: Pairs = [(cell.case, engine) for _, cells in rows for engine, cell in cells.items() if cell.case]
    missing = list(dict.fromkeys(wanted))
    if not missing:
        say("nothing to measure: each of these cells is yes or no, or not possible here")
        return 0
    environments = {engine: envs.find(engine) for _, engine in missing}
    store.writable(root)
    failed, known = 0, scenario.cases()
    expected = plan.Plan.read(root, next(iter(environments.values())).device, missing)
    say(f"{len(missing)} probes, at most {plan.spoken(limit * len(missing))}")
    with lock.alone(True, say), progress(console) as tell:
        for engine, environment in environments.items():
            for group in groups.grouped({case: known[case] for case, of in missing if of == engine}):
                probing = runner.Run([environment], 1, root, False, limit, tell, say, expected, failures=True)
                try:
                    with within(limit * len(group.cases)):
                        failed += probing.cases(group.cases)[1]
                except LaunchFailed as late:
                    say(f"{', '.join(group.cases)} on {engine}: {late}")
                    failed += 1
    return failed


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises LaunchFailed in what it holds once so many seconds are over."""

    def over(*_: object) -> None:
        raise LaunchFailed(f"not done within {seconds:g} s, the limit of a probe (--limit)")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _show(title: str, rows: Sequence[Row], root: Path, markdown: bool) -> None:
    if markdown:
        say(matrix.as_markdown(title, rows, Path(os.path.relpath(root)).as_posix()))
        return
    table, sources = matrix.of_rows(title, rows, os.path.relpath(root))
    console.print(table)
    for line in sources:
        say(line)
    if missing := sum(bool(one.case) for _, cells in rows for one in cells.values()):
        say(f"{missing} cells are open: `rollbench matrix --run` measures them, on that machine")

"""The commands that guard a change: gate, calibrate."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness import calibrate, machine, rivals, store, tables
from harness.errors import UserError
from harness.metrics import METRICS
from harness.paths import results_home
from harness.progress import progress
from harness.record import Record
from harness.screen import console, print_table, warn

ALPHA = 0.05


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
    app.command("calibrate")(show_calibration)


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
        found = calibrate.spreads(_read(records or [results_home()], everything=bool(records)))
        if not found:
            raise UserError("no records with two launches and no broken certificate: `rollbench run` makes them")
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
        for _, record in store.scan(path) if path.is_dir() else [(path, store.load(path))]:
            if isinstance(record, str):
                warn(f"skipped {record}")
            elif everything or record.machine.id == machine.fingerprint().id:
                found.append(record)
    return found

"""`rollbench history`: where metrics changed over the tracked records."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness import history, machine, store, tables
from harness.compare import plain
from harness.errors import UserError
from harness.history import Change, Series
from harness.paths import results_home
from harness.record import Record
from harness.screen import Results, print_table, say, warn


def add(app: typer.Typer) -> None:
    """Give the command line this command."""
    app.command("history")(show_history)


def show_history(
    case: Annotated[list[str] | None, typer.Option("--case", "-c", help="Only this case; repeat it.")] = None,
    engine: Annotated[list[str] | None, typer.Option("--engine", "-e", help="Only this engine; repeat it.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Only this metric (none: those that block).")] = None,
    on: Annotated[str | None, typer.Option("--machine", help="Records of this machine (a folder of results/).")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables as GitHub shows them.")] = False,
    results: Results = None,
) -> None:
    """Show how metrics went over the tracked records, where their level changed, and the command that finds the commit.

    \b
    rollbench history                                 this machine, metrics that block
    rollbench history -c single_turn/tiny-16 --metric tpot
    rollbench history --machine 1x-nvidia-h100-80gb-hbm3
    """
    found = history.series(_records(results or results_home(), on or machine.fingerprint().id, case, engine))
    wanted = [s for s in found if (s.metric.name in metric if metric else s.metric.blocks)]
    if not wanted:
        raise UserError(
            "no records of that: `rollbench run` makes them, and `rollbench history --machine` names another"
        )
    table = Table(title="history, oldest to newest", title_justify="left")
    for header in ("case", "engine", "metric", "records", "from", "to", "changes"):
        table.add_column(header, overflow="fold")
    changed = list[Change]()
    for series in wanted:
        mine = history.changes(series)
        changed += mine
        table.add_row(*_row(series, mine))
    print_table(table, markdown)
    for change in changed:
        for line in _told(change):
            say(str(plain(line)))


def _records(root: Path, machine_id: str, cases: list[str] | None, engines: list[str] | None) -> list[Record]:
    kept = list[Record]()
    for _, record in store.scan(root):
        if isinstance(record, str):
            warn(f"skipped {record}")
        elif record.machine.id == machine_id and all(
            not names or name in names for name, names in ((record.case, cases), (record.engine, engines))
        ):
            kept.append(record)
    return kept


def _row(series: Series, changes: list[Change]) -> list[str]:
    first, last, count = series.records[0], series.values[-1], len(series.records)
    few = f"too few to tell (from {history.FEWEST})" if count < history.FEWEST else "none"
    shown = ", ".join(f"{_amount(change)} at {change.after.commit.id[:10]}" for change in changes) or few
    unit = series.metric.unit
    return [first.case, first.engine, series.metric.title, str(count), f"{series.values[0]:.4g} {unit}".strip(),
            f"{last:.4g} {unit}".strip(), shown]  # fmt: skip


def _amount(change: Change) -> str:
    metric = change.series.metric
    size = tables.of_amount(abs(change.worse), metric.scale == "ratio", metric.unit)
    return f"{size} {'worse' if change.worse > 0 else 'better'}"


def _told(change: Change) -> list[str]:
    before, after = change.before, change.after
    what = f"{before.case} on {before.engine}, {change.series.metric.title}: {_amount(change)}"
    ends = (f"{record.commit.id[:10]} ({record.started:%Y-%m-%d})" for record in (before, after))
    spans = f"between {' and '.join(ends)}"
    if change.one_commit:
        return [f"{what} {spans}: one commit, so it was not the code"]
    versions = [f"{n} {before.versions[n]} to {v}" for n, v in after.versions.items() if before.versions.get(n, v) != v]
    lines = [f"{what} {spans}" + (f"; versions: {', '.join(versions)}" if versions else "")]
    return lines + ([f"    find it: {change.bisect}"] if change.bisect else [])

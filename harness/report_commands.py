"""Commands of `rollbench` that write what people read: the report, the page, the guide."""

from pathlib import Path
from typing import Annotated

import typer

from harness import report
from harness.paths import results_home

Results = Annotated[Path | None, typer.Option("--results", help="Folder of the records.", envvar="ROLLBENCH_RESULTS")]
Check = Annotated[bool, typer.Option("--check", help="Write nothing; end 1 when a file is not what it should be.")]


def add(app: typer.Typer) -> None:
    """Give the command line these commands."""
    app.command("report")(write_report)


def write_report(check: Check = False, results: Results = None) -> None:
    """Write tables and plots of all records into the results folder, as GitHub shows them.

    \b
    rollbench report           results/README.md, and of each machine and scenario a folder's README.md and plots
    rollbench report --check   what CI asks: are they those of the records?
    """
    root = (results or results_home()).resolve()
    made, evidence = report.files(root)
    if check:
        differ = report.stale(root, made)
        finish(differ, f"{root}: the report is that of the records", "`rollbench report` writes it anew")
    else:
        changed = report.write(root, made)
        told = f"{len(evidence.entries)} records of {len(evidence.cases())} cases; {len(changed)} files changed"
        typer.echo(f"{root / 'README.md'}: {told}")
    for reason in evidence.skipped:
        typer.echo(f"passed over: {reason}", err=True)
    if check and differ:
        raise typer.Exit(1)


def finish(differ: list[str], fine: str, advice: str) -> None:
    """Say what a check found."""
    for name in differ:
        typer.echo(f"stale: {name}", err=True)
    typer.echo(f"{len(differ)} files are stale: {advice}" if differ else fine, err=bool(differ))

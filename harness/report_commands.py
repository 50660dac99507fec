"""Commands of `rollbench` that write what people read: the report, the page, the guide."""

from pathlib import Path
from typing import Annotated

import typer

from harness import claims, guide, page, plots, report, store
from harness.errors import UserError
from harness.paths import PROJECT, results_home
from harness.screen import Results

Check = Annotated[bool, typer.Option("--check", help="Write nothing; end 1 when a file is not what it should be.")]


def add(app: typer.Typer) -> None:
    """Give the command line these commands."""
    app.command("report")(write_report)
    app.command("guide")(write_guide)


def write_report(
    check: Check = False,
    html: Annotated[bool, typer.Option("--html", help="Write the page instead, for a browser.")] = False,
    to: Annotated[Path | None, typer.Option("--to", help="The page's folder (default: html/ in the results).")] = None,
    results: Results = None,
) -> None:
    """Write tables and plots of all records into the results folder, as GitHub shows them.

    \b
    rollbench report              results/README.md, and a README.md and plots for each machine and scenario
    rollbench report --check      what CI asks: are they those of the records?
    rollbench report --html       a page with filters and plots that zoom, which needs no network
    """
    root = (results or results_home()).resolve()
    if (to and not html) or (check and html):
        raise UserError(
            "`--to` names the folder of a page, so needs --html; and a page is not tracked: it has no --check"
        )
    if html:
        evidence, folder = report.records_of(root), (to or root / "html").resolve()
        kept = page.write(evidence, folder)
        typer.echo(f"{folder / 'index.html'}: {len(evidence.entries)} records, {kept} of them in full")
        return
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


def write_guide(
    check: Check = False,
    to: Annotated[
        Path | None, typer.Option("--to", help="The file (default: docs/backend-selection-guide.md).")
    ] = None,
    results: Results = None,
) -> None:
    """Write the backend selection guide from the records: each claim, what was found of it, and where.

    \b
    rollbench guide           docs/backend-selection-guide.md
    rollbench guide --check   what CI asks: is it that of the records?
    """
    root, path = (
        (results or results_home()).resolve(),
        (to or PROJECT / "docs" / "backend-selection-guide.md").resolve(),
    )
    evidence = report.records_of(root)
    made = guide.text(list(plots.sections(evidence)), guide.relative(root, path))
    if check:
        differ = [] if path.is_file() and path.read_text("utf-8") == made else [path.name]
        finish(differ, f"{path}: the guide is that of the records", "`rollbench guide` writes it anew")
        if differ:
            raise typer.Exit(1)
    else:
        store.write(path, made)
        typer.echo(f"{path}: {len(claims.CLAIMS)} claims, {len(evidence.entries)} records")


def finish(differ: list[str], fine: str, advice: str) -> None:
    """Say what a check found."""
    for name in differ:
        typer.echo(f"stale: {name}", err=True)
    typer.echo(f"{len(differ)} files are stale: {advice}" if differ else fine, err=bool(differ))

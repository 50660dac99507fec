"""`rollbench export` and `rollbench import`: records for other programs, other tools' results for rollbench."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from harness import beside, export, foreign, scenario, store
from harness.compare import plain
from harness.envs import PAIR
from harness.errors import UserError, nearest
from harness.paths import results_home
from harness.record import Record
from harness.screen import Results, print_table, say, warn


def add(app: typer.Typer) -> None:
    """Give the command line these commands."""
    app.command("export")(export_records)
    app.command("import")(import_results)


def export_records(
    file: Annotated[Path | None, typer.Argument(help="The file to write; none: standard output.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", "-f", help="csv, parquet or openmetrics; else by the file's ending.")
    ] = None,
    case: Annotated[list[str] | None, typer.Option("--case", "-c", help="Only these cases (patterns).")] = None,
    engine: Annotated[list[str] | None, typer.Option("--engine", "-e", help="Only this engine; repeat it.")] = None,
    on: Annotated[str | None, typer.Option("--machine", help="Only this machine (a folder of results/).")] = None,
    results: Results = None,
) -> None:
    """Write all records as one table, a row for each launch and metric, for other programs.

    \b
    rollbench export results.csv
    rollbench export results.parquet -c 'single_turn/*'
    rollbench export -f openmetrics > rollbench.om
    """
    root = (results or results_home()).resolve()
    kind = _format(file, form)
    if file is None and not kind.text:
        raise UserError("parquet is not text: name a file, `rollbench export results.parquet`")
    skipped = list[str]()
    found = _records(root, case or ["*"], engine, on, skipped)
    if (first := next(found, None)) is None:
        raise UserError(f"{root}: no records" + (" of what was asked for" if case or engine or on else ""))
    rows = export.rows(itertools.chain([first], found))
    if file is None:
        kind.write(rows, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        try:
            with store.writing(file) as out:
                kind.write(rows, out)
        except OSError as error:
            raise UserError(f"{file}: cannot be written: {error.strerror}") from None
        say(f"{file}: {file.stat().st_size / 1024:.0f} KiB")
    for why in skipped:
        warn(f"passed over: {why}")


def _format(file: Path | None, name: str | None) -> export.Format:
    """The format of that name, else that of the file's ending, else CSV."""
    if name:
        if name not in export.FORMATS:
            raise UserError(f"no format {name}: {nearest(name, export.FORMATS)}")
        return export.FORMATS[name]
    if file is None:
        return export.FORMATS["csv"]
    found = next((kind for kind in export.FORMATS.values() if file.suffix.lower() in kind.endings), None)
    if found is None:
        raise UserError(f"{file}: its ending names no format: give --format, which takes {', '.join(export.FORMATS)}")
    return found


def _records(
    root: Path, cases: Sequence[str], engines: Sequence[str] | None, machine: str | None, skipped: list[str]
) -> Iterator[tuple[str, Record]]:
    """What was asked for, with its path below the results folder; why files were passed over goes to `skipped`."""
    for path, record in store.scan(root):
        if isinstance(record, str):
            skipped.append(record)
        elif (
            any(fnmatchcase(record.case, pattern) for pattern in cases)
            and record.engine in (engines or [record.engine])
            and record.machine.id == (machine or record.machine.id)
        ):
            yield str(path.relative_to(root)), record


def import_results(
    files: Annotated[list[Path], typer.Argument(help="Result files of `vllm bench` or SGLang's bench_serving.")],
    case: Annotated[str, typer.Option("--case", "-c", help="Our case beside which they are shown.")] = "",
    engine: Annotated[str, typer.Option("--engine", "-e", help="vllm or sglang, where the file does not say.")] = "",
    on: Annotated[str, typer.Option("--machine", help="Where they were measured (a folder of results/).")] = "",
    results: Results = None,
) -> None:
    """Take in results of other benchmark tools: shown beside our figures as foreign, never compared, never gated.

    \b
    rollbench import serve.json -c single_turn/0.5B-512 --machine 1x-nvidia-h100-80gb-hbm3
    rollbench import *.jsonl
    """
    if case and case not in scenario.cases():
        raise UserError(f"no case {case}: {nearest(case, scenario.cases())}")
    if engine and engine not in PAIR:
        raise UserError(f"no engine {engine}: {nearest(engine, PAIR)}")
    root = results or results_home()
    found = [one for path in files for one in foreign.parse(path, engine, on, case)]
    for path, one in zip(foreign.save(found, root), found, strict=True):
        say(f"{path}: foreign, {one.tool}: {', '.join(one.figures)}")


def show_foreign(root: Path, machine: str, cases: Sequence[str], records: Sequence[Record], markdown: bool) -> bool:
    """The table of foreign results of this machine, or of one that their files do not say; whether there are any."""
    found, skipped = foreign.read(root)
    for why in skipped:
        warn(f"skipped {why}")
    mine = [one for _, one in found if one.machine in ("", machine) and (not cases or one.case in cases)]
    if mine:
        table = Table(title=beside.TITLE, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for header in beside.HEADERS:
            table.add_column(header, overflow="fold")
        for one in mine:
            for first, row in itertools.zip_longest([beside.about(one)], beside.rows(one, records), fillvalue=""):
                table.add_row(*map(plain, [first, *row]))
        print_table(table, markdown)
    return bool(mine)

"""What commands share: what they write to (tables and lines on standard output, mistakes on standard error), and the
folder of the records."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness import compare

Results = Annotated[Path | None, typer.Option("--results", help="Folder of the records.", envvar="ROLLBENCH_RESULTS")]

console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
stderr = Console(stderr=True, soft_wrap=True)


def say(text: str) -> None:
    """One line as it is: no markup, no wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """A line that is no result."""
    stderr.print(text, markup=False, highlight=False)


def print_table(table: Table, markdown: bool = False) -> None:
    if markdown:
        say(compare.markdown(table) + "\n")
    else:
        console.print(table)


def stop(text: str, code: int) -> None:
    """End the command with this exit status. Raises typer.Exit."""
    warn(f"rollbench: {text}")
    raise typer.Exit(code)

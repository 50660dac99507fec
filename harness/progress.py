"""Progress of a long command: one line that changes on a terminal, a line at every change elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function that is told what is being waited for. Elapsed time is that of the whole command."""
    console = Console(file=sys.stdout)
    if console.is_terminal:
        with Progress(
            SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"), console=console, transient=True
        ) as bar:
            task = bar.add_task("", total=None)
            yield lambda text: bar.update(task, description=text)
        return
    start = time.monotonic()

    def line(text: str) -> None:
        elapsed = int(time.monotonic() - start)
        print(f"[{elapsed // 60}:{elapsed % 60:02}] {text}", flush=True)

    yield line

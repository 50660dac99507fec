"""Progress of a long command: one line that changes on a terminal, a line at every change elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A function that is told what is being waited for. Elapsed time is that of the whole command.

    `console` is the one that other lines go to meanwhile, so that they stand above the one that changes.
    """
    if console.is_terminal:
        columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda text: bar.update(task, description=text)
        return
    start = time.monotonic()

    def line(text: str) -> None:
        elapsed = int(time.monotonic() - start)
        print(f"[{elapsed // 60}:{elapsed % 60:02}] {text}", flush=True)

    yield line

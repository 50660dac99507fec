"""A process whose children its work depends on ends with them."""

import subprocess
import sys

import pytest

CODE = """
import multiprocessing, os, signal, threading, time
from harness.worker.engines.children import end_with_children

if __name__ == "__main__":
    context, closed = multiprocessing.get_context("fork"), threading.Event()
    children = [context.Process(target=time.sleep, args=(4,), name=name) for name in ("scheduler", "other")]
    for child in children:
        child.start()
    end_with_children(closed)
    {0}
    os.kill(children[0].pid, signal.SIGKILL)
    time.sleep(3)
    print("goes on")
"""


@pytest.mark.parametrize(
    ("before", "status", "says"),
    [
        ("pass", 1, "a process of the engine has died: scheduler (exit status -9)\n"),
        ("closed.set()", 0, "goes on\n"),
    ],
)
def test_a_process_ends_with_its_children_unless_it_closes(before: str, status: int, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(before)], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout) == (status, says)

"""Commands of rollbench for tests."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from harness import cli, screen
from harness.paths import PROJECT

Done = subprocess.CompletedProcess[str]


def apart(*arguments: str, **environment: str) -> Done:
    """A command as a user runs it, in a process of its own."""
    command = [sys.executable, "-m", "harness.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=60, cwd=PROJECT
    )


def rollbench(*arguments: str, **environment: str) -> Done:
    """The same in this process, which spares the second or two that its imports take."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(PROJECT)
        patch.setattr(screen.console, "width", int(environment.get("COLUMNS", 120)))
        with pytest.raises(SystemExit) as ended, cli.one_line_errors():
            cli.app(list(arguments), prog_name="rollbench")
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out.getvalue(), err.getvalue())

"""One run on a machine at a time."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UserError


@contextmanager
def alone(wait: bool, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the machine: two runs at once would measure each other. Raises UserError when another holds it and `wait` is
    not set. The lock is one file for all users, `$ROLLBENCH_LOCK` or /tmp/rollbench.lock."""
    path = Path(os.environ.get("ROLLBENCH_LOCK", "/tmp/rollbench.lock"))
    path.touch()
    with contextlib.suppress(PermissionError):
        path.chmod(0o666)
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = f"another run (process {file.read().strip() or '?'}) is measuring on this machine"
            if not wait:
                raise UserError(
                    f"{holder}: two at once would measure each other; leave --no-wait out to wait"
                ) from None
            report(f"{holder}: waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield

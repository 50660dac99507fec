"""Where things lie: the project, the cache of environments and models, the results."""

import os
import re
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PROJECT = PACKAGE.parent


def cache_home() -> Path:
    """Environments and models, shared by all checkouts: `$ROLLBENCH_HOME`, else `~/.cache/rollbench`."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "rollbench")
    return Path(os.environ.get("ROLLBENCH_HOME", default)).resolve()


def results_home() -> Path:
    """Records: `$ROLLBENCH_RESULTS`, else `results/` of the checkout."""
    return Path(os.environ.get("ROLLBENCH_RESULTS", PROJECT / "results")).resolve()


def anywhere(text: str, results: Path) -> str:
    """Without the places of this machine: what an engine says when it fails names files of its environment and log."""
    known = {"results": results, "~": Path.home(), "$ROLLBENCH_HOME": cache_home()}
    for name, place in known.items():
        for path in {place, place.resolve()} - {Path(place.anchor)}:
            text = re.sub(rf"(?<![\w.~/-]){re.escape(str(path))}(?=/)", name, text)
    return text


def shared_memory() -> Path:
    """A folder in memory where there is one."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())

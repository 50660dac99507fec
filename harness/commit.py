"""What code is being measured: from git, else from a stamp made before the tree was copied without its history."""

import functools
import hashlib
import subprocess

from harness.paths import PROJECT
from harness.record import Commit

CODE = ("--", ".", ":(exclude)results")  # a record that was just written changes no code
STAMP = PROJECT / ".rollbench" / "commit.json"


@functools.cache
def current() -> Commit:
    """The commit of this checkout; its id is `unknown` where neither git nor a stamp tells."""
    if (PROJECT / ".git").exists():
        try:
            return Commit(
                id=_git("rev-parse", "HEAD"),
                tree=_git("rev-parse", "HEAD^{tree}"),
                dirty=bool(_git("status", "--porcelain", *CODE)),
            )
        except (OSError, subprocess.CalledProcessError):
            pass
    if STAMP.is_file():
        return Commit.model_validate_json(STAMP.read_text())
    return Commit(id="unknown", tree="unknown", dirty=True)


def changes() -> str:
    """A hash of what differs from the commit, so that two dirty trees are told apart."""
    try:
        text = _git("diff", "HEAD", *CODE) + _git("status", "--porcelain", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamp() -> Commit:
    """Write the commit down for a copy of this tree that will have no history."""
    STAMP.parent.mkdir(exist_ok=True)
    STAMP.write_text(current().model_dump_json() + "\n")
    return current()


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

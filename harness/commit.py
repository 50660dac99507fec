"""What code is being measured: from git, else from a stamp made before the tree was copied without its history."""

import functools
import hashlib
import subprocess
from pathlib import Path

from harness.paths import PROJECT
from harness.record import Commit

CODE = ("--", ".", ":(exclude)results")  # a record that was just written changes no code
STAMPED = ".rollbench/commit.json"  # in a tree without history
STAMP = PROJECT / STAMPED


@functools.cache
def current() -> Commit:
    """The commit of this checkout; its id is `unknown` where neither git nor a stamp tells."""
    return of(PROJECT)


def of(tree: Path) -> Commit:
    """The same of another tree."""
    if (tree / ".git").exists():
        try:
            return Commit(
                id=git("rev-parse", "HEAD", tree=tree),
                tree=git("rev-parse", "HEAD^{tree}", tree=tree),
                dirty=bool(git("status", "--porcelain", *CODE, tree=tree)),
            )
        except (OSError, subprocess.CalledProcessError):
            pass
    if (stamp := tree / STAMPED).is_file():
        return Commit.model_validate_json(stamp.read_text())
    return Commit(id="unknown", tree="unknown", dirty=True)


def changes() -> str:
    """A hash of what differs from the commit, so that two dirty trees are told apart."""
    try:
        text = git("diff", "HEAD", *CODE) + git("status", "--porcelain", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamp() -> Commit:
    """Write the commit down for a copy of this tree that will have no history."""
    STAMP.parent.mkdir(exist_ok=True)
    STAMP.write_text(current().model_dump_json() + "\n")
    return current()


def git(*arguments: str, tree: Path = PROJECT) -> str:
    """What git prints. Raises CalledProcessError when it fails, OSError where there is none."""
    command = ["git", "-C", str(tree), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

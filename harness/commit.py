"""What code is being measured: from git, else from a stamp made before the tree was copied without its history."""

import functools
import hashlib
import os
import subprocess
import tempfile
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
    """The same of another tree. A stamp goes before git where the files are those of the stamped commit: a copy may
    have come with an older history."""
    path = tree / STAMPED
    stamped = Commit.model_validate_json(path.read_text()) if path.is_file() else None
    if (tree / ".git").exists():
        try:
            head, dirty = git("rev-parse", "HEAD", tree=tree), bool(git("status", "--porcelain", *CODE, tree=tree))
            if stamped and dirty and stamped.id != head and files(tree) == stamped.tree:
                return stamped
            return Commit(id=head, tree=git("rev-parse", "HEAD^{tree}", tree=tree), dirty=dirty)
        except (OSError, subprocess.CalledProcessError):
            pass
    return stamped or Commit(id="unknown", tree="unknown", dirty=True)


def files(tree: Path) -> str:
    """Git's hash of a tree's files as they are, ignored ones left out."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("add", "--all", tree=tree, **index)
        return git("write-tree", tree=tree, **index)


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


def git(*arguments: str, tree: Path = PROJECT, **variables: str) -> str:
    """What git prints. Raises CalledProcessError when it fails, OSError where there is none."""
    command = ["git", "-C", str(tree), *arguments]
    environment = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

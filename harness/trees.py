"""The code of a side: a commit exported from git, or a folder as it is; and the interpreter of its light half."""

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import commit, envs
from harness.commit import git
from harness.errors import UserError
from harness.paths import PROJECT, cache_home
from harness.record import Commit


@dataclass(frozen=True)
class Tree:
    """`name` as it was asked for, `path` of its files, the commit they are of."""

    name: str
    path: Path
    commit: Commit

    def variables(self) -> dict[str, str]:
        """Of a process that runs this tree's own harness."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        return kept | {"PYTHONPATH": str(self.path)}


def resolve(name: str) -> str:
    """The full id of a commit. Raises UserError when there is none of that name."""
    if not (PROJECT / ".git").exists():
        raise UserError(f"{PROJECT} has no git history to take {name!r} from: compare trees with --base DIR --head DIR")
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except subprocess.CalledProcessError:
        raise UserError(
            f"no commit {name!r} here: `git log --oneline --all` shows those there are (a shallow clone: `git fetch "
            "--unshallow`)"
        ) from None


def of_commit(name: str) -> Tree:
    """The commit's files, exported once into the cache. Raises UserError for an unknown commit, and for the one that is
    checked out while files differ from it: what they change would not be measured."""
    found = resolve(name)
    if commit.current().dirty and commit.current().id == found:
        raise UserError(
            f"{name} is checked out with changes that no commit holds, which would not be measured: commit or stash "
            "them, or measure the tree as it is: --base DIR --head ."
        )
    folder = cache_home() / "trees" / found
    with _locked(folder):
        if not (folder / commit.STAMPED).is_file():
            _export(found, folder)
    return Tree(name, folder, commit.of(folder))


def _export(found: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        archive, files = Path(scratch, "tree.tar"), Path(scratch, "tree")
        git("archive", "--format=tar", f"--output={archive}", found)
        with tarfile.open(archive) as tar:
            tar.extractall(files, filter="data")
        stamp = files / commit.STAMPED
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(
            Commit(id=found, tree=git("rev-parse", f"{found}^{{tree}}"), dirty=False).model_dump_json() + "\n"
        )
        files.rename(folder)


def of_folder(path: Path) -> Tree:
    """A checkout or an exported tree as it is. Raises UserError when it is none."""
    if not (path / "harness" / "cli.py").is_file():
        raise UserError(f"{path} is no checkout of rollbench: harness/cli.py is missing")
    return Tree(str(path), path.resolve(), commit.of(path.resolve()))


def light(tree: Tree, tell: Callable[[str], None]) -> str:
    """The interpreter with the light requirements of a tree: this one where its lock is the same, else one built from
    its own lock and kept by the lock's hash. Raises UserError when it cannot be built."""
    lock = tree.path / "requirements" / "light.txt"
    found = envs.lock_hash(lock)
    if found == envs.lock_hash(envs.REQUIREMENTS / "light.txt"):
        return sys.executable
    folder = cache_home() / "envs" / f"light-{found[:8]}"
    python = folder / "bin" / "python"
    with _locked(folder):
        if not (folder / envs.READY).exists():
            tell(f"building {folder} from the light lock of {tree.name}")
            shutil.rmtree(folder, ignore_errors=True)
            envs.uv(
                "venv", "--quiet", "--python", sys.executable, str(folder), advice="the light environment of a side"
            )
            envs.uv("pip", "sync", "--quiet", "--require-hashes", "--python", str(python), str(lock),
                    advice="the package registry must be reached; run the same command again")  # fmt: skip
            (folder / envs.READY).touch()
    return str(python)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One maker at a time: a second waits, then finds it made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

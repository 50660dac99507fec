"""Shared memory that processes leave behind under a name: found while they live, removed when they are gone.

Engines end their processes by killing them, which then cannot remove their segments and semaphores from /dev/shm: one
of 16 KiB with each launch of SGLang, one of 160 MiB where vLLM's core is killed.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path("/dev/shm")


class Segments:
    """Those that came after this object was made, and that a process shown to `look` maps or holds open: one that is
    another's is never among them."""

    def __init__(self) -> None:
        self._before = {name for _, name in _files()}
        self._found: dict[int, Path] = {}  # by inode

    def look(self, pids: Iterable[int]) -> None:
        """Note what these processes have now. Never raises; a process may be gone."""
        fresh = {inode: name for inode, name in _files() if name not in self._before}
        for pid in pids if fresh else ():
            self._found |= {inode: FOLDER / fresh[inode] for inode in held(pid) & fresh.keys()}

    @property
    def left(self) -> list[Path]:
        """Of those that were seen, what is still there."""
        return sorted(path for inode, path in self._found.items() if _inode(path) == inode)

    def remove(self) -> None:
        """Never raises."""
        for path in self.left:
            with contextlib.suppress(OSError):
                path.unlink()


def held(pid: int) -> set[int]:
    """Inodes of what a process maps from the folder or holds open there. A semaphore is mapped before it gets its name,
    so that a path does not tell."""
    found = set[int]()
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[5].startswith(f"{FOLDER}/"):
                found.add(int(fields[4]))
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(file.readlink()).startswith(f"{FOLDER}/"):
                    found.add(file.stat().st_ino)
    return found


def _files() -> list[tuple[int, str]]:
    """Inode and name of what lies in the folder itself."""
    try:
        with os.scandir(FOLDER) as entries:
            return [(entry.inode(), entry.name) for entry in entries if entry.is_file(follow_symlinks=False)]
    except OSError:
        return []


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None

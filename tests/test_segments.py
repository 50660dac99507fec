"""What processes leave in shared memory is removed, what others have there is not."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import client, envs
from harness.rig import Rig
from harness.scenario import Options
from harness.segments import FOLDER, Segments, held

LEAVES = """
import mmap, multiprocessing, os, sys, time
lock = multiprocessing.get_context("spawn").Lock()  # its tracker would remove it, and is killed too
mapped = open(sys.argv[1], "wb+")
mapped.truncate(4096)
memory = mmap.mmap(mapped.fileno(), 4096)
mapped.close()
opened = open(sys.argv[2], "wb")
os.close(os.open(sys.argv[3], os.O_CREAT))
print(lock._semlock.name, flush=True)
time.sleep(60)
"""


@pytest.fixture
def names() -> Iterator[list[Path]]:
    """Of files in shared memory; what is left of them is removed."""
    found = [FOLDER / f"rollbench_test_{uuid.uuid4().hex}" for _ in range(4)]
    yield found
    for path in found:
        path.unlink(missing_ok=True)


def test_segments_and_semaphores_of_killed_processes_are_removed_and_no_others(names: list[Path]) -> None:
    mapped, opened, other, before = names
    before.touch()
    segments = Segments()
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVES, *map(str, (mapped, opened, other))],
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    semaphore = FOLDER / f"sem.{process.stdout.readline().decode().strip().lstrip('/')}"
    try:
        with before.open("rb"):
            segments.look([os.getpid(), *(p.pid for p in client.group(process.pid))])
        assert segments.left == sorted([mapped, opened, semaphore])
    finally:
        client.kill_group(process.pid)
        process.communicate()
    segments.remove()
    assert segments.left == []
    assert [path.exists() for path in (mapped, opened, semaphore)] == [False] * 3
    assert [path.exists() for path in (other, before)] == [True] * 2


def test_a_name_that_another_has_taken_is_left_to_it(names: list[Path]) -> None:
    segments = Segments()
    with names[0].open("wb"):
        segments.look([os.getpid()])
    names[1].touch()  # so that the inode is another
    names[1].replace(names[0])
    segments.remove()
    assert names[0].exists()
    assert held(1 << 30) == set()  # nobody


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_launch_leaves_no_segment_however_it_ends(tmp_path: Path, names: list[Path], end: str) -> None:
    options = Options(native={"fake": {"segment": names[0].name}})
    with Rig(envs.find("fake"), "tiny-qwen3", options, tmp_path / "log", 30, print) as rig:
        rig.worker  # noqa: B018, starts it
        names[1].touch()  # another's, of the same moment
        assert names[0].exists()
        if end == "closed":
            assert rig.shut_down().ok
        else:
            os.kill(rig.worker.pid, signal.SIGKILL)
    assert [path.exists() for path in names[:2]] == [False, True]

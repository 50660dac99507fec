"""The worker's process group: how it answers, dies, hangs and ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness import client, paths
from harness.client import Worker
from harness.errors import LaunchFailed
from harness.paths import PROJECT

OPTIONS: dict[str, Any] = {"max_model_len": 64}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker("fake", sys.executable, tmp_path / "fake.log")
    yield worker
    worker.end()
    assert client.group(worker.pid) == []
    assert not worker.folder.exists()


def start(worker: Worker, **native: Any) -> None:
    worker.call("start", 30, model="", load_format="", options=OPTIONS | {"native": native}, device="cpu")


def test_answers_with_its_own_seconds(worker: Worker) -> None:
    reply = worker.call("echo", 30, text="hallo")
    assert reply.value == "hallo"
    assert 0 <= reply.seconds < 1


def test_sees_this_package_and_nothing_else_of_ours(worker: Worker) -> None:
    worker.call("echo", 30)
    environment = psutil.Process(worker.pid).environ()
    assert environment["PYTHONPATH"] == str(worker.folder / "site")
    assert {p.name for p in (worker.folder / "site").iterdir()} == {"harness", "trainers"}


def test_error_carries_the_words_and_the_end_of_the_log(worker: Worker) -> None:
    with pytest.raises(LaunchFailed, match=r"(?s)fake: start failed: RuntimeError: .*told to die.*Traceback"):
        start(worker, die_at_start=True)
    assert client.group(worker.pid) == []


def test_death_is_noticed_at_once_even_while_a_child_holds_the_pipe(worker: Worker) -> None:
    worker.call("echo", 30)
    begun = time.monotonic()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(LaunchFailed, match=r"died in echo \(exit status -9\)"):
        worker.call("echo", 30)
    assert time.monotonic() - begun < 2


def test_hang_ends_the_whole_group(worker: Worker) -> None:
    worker.call("echo", 30)
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(LaunchFailed, match=r"no answer to echo within 0\.2 s"):
        worker.call("echo", 0.2)
    assert client.group(worker.pid) == []


def test_closing_leaves_nothing_and_says_so(worker: Worker) -> None:
    start(worker)
    assert worker.close() == []
    assert worker.close() == []  # twice does no harm


def test_interrupt_in_a_call_ends_the_group(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.call("echo", 30)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker._wire, "receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        worker.call("echo", 30)
    assert client.group(worker.pid) == []


CHILD = "import os, time; {0}; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.mark.parametrize("escape", ["pass", "os.setpgid(0, 0)"])
def test_a_child_in_a_group_of_its_own_is_still_found_and_killed(escape: str) -> None:
    child_code = CHILD.format(escape)
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child_code!r}]).wait()"
    leader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert leader.stdout
    child = int(leader.stdout.readline())
    assert {p.pid for p in client.group(leader.pid)} == {leader.pid, child}
    client.kill_group(leader.pid)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    leader.wait(5)
    leader.stdout.close()


def test_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """Not even a kill that nobody can catch leaves an engine behind."""
    code = f"""
        import sys, time
        from pathlib import Path
        from harness.client import Worker
        worker = Worker("fake", sys.executable, Path({str(tmp_path)!r}) / "log")
        worker.call("start", 30, model="", load_format="", options={{"native": {{"hang_at_call": 1}}}}, device="cpu")
        print(worker.pid, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    assert parent.stdout
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(pid)


def test_an_interpreter_that_is_not_there_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def held() -> tuple[int, int]:
        return psutil.Process().num_fds(), len([*paths.shared_memory().glob(f"{client.SCRATCH}{os.getpid()}-*")])

    before = held()
    with pytest.raises(LaunchFailed) as failure:
        Worker("vllm", "/gone/python", tmp_path / "log")
    assert str(failure.value) == (
        "vllm: /gone/python does not start ([Errno 2] No such file or directory: '/gone/python'): `rollbench doctor` "
        "says which engines can run"
    )
    assert held() == before


def test_folders_of_killed_runs_are_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine, stale, other = (
        tmp_path / name for name in (f"rollbench-{os.getpid()}-a", f"rollbench-{gone.pid}-b", "rollbench-x")
    )
    for folder in (mine, stale, other):
        (folder / "site").mkdir(parents=True)
    client.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {mine.name, other.name}


def test_tail_of_a_log_that_is_not_there() -> None:
    assert "no log" in client.tail(Path("/nowhere"))

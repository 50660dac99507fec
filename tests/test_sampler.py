"""The sampler's process, and what it reads."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from harness import sampler
from harness.sampler import Cards, Member, Probe, Sampler, Session, Times
from harness.series import Series, load_certificate

BURN = "import time\nwhile time.process_time() < {}: pass\ntime.sleep(60)"
CORES = len(os.sched_getaffinity(0))
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python in a session of its own, which the sampler takes for ours, or in that of the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(code: str, session: bool = True) -> "subprocess.Popen[bytes]":
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", code], start_new_session=session, stdin=pipe, stdout=pipe)
        started.append(process)
        return process

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):  # it has ended and been waited for
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # one that leads no group
        process.communicate()


def until(met: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def cpu(process: "subprocess.Popen[bytes]") -> float:
    return sum(psutil.Process(process.pid).cpu_times()[:2])


def test_own_and_foreign_use(tmp_path: Path, start: Start) -> None:
    """What the session burns is its own; what others burn is foreign, and breaks the certificate."""
    path = tmp_path / "deep" / "series.jsonl"
    engine = start("input()\n" + BURN.format(0.6))
    with Sampler(path, engine.pid, 0.05) as running:
        until(lambda: path.exists() and lines(path) > 1)
        begun, before = time.monotonic(), cpu(engine)
        assert engine.stdin is not None
        engine.stdin.write(b"\n")
        engine.stdin.flush()
        until(lambda: cpu(engine) > 0.55)
        middle, after = time.monotonic(), cpu(engine)
        until(lambda: psutil.Process(engine.pid).status() == psutil.STATUS_SLEEPING)  # it has burnt all
        seen = lines(path)
        until(lambda: lines(path) > seen + 1)
        others = [start(BURN.format(60), session=False) for _ in range(1 + CORES // 8)]
        foreign = time.monotonic()
        until(lambda: all(cpu(other) > 0.5 for other in others))
        ended = time.monotonic()
    running.stop()  # again
    series = Series.load(path)
    assert series.problem == ""
    own, theirs = series.window(begun, middle), series.window(foreign, ended)
    assert own.own_cores is not None
    assert own.own_cores * own.seconds == pytest.approx(after - before, abs=0.15)
    assert own.peak_rss is not None
    assert own.peak_rss > 1 << 20
    assert theirs.own_cores == pytest.approx(0, abs=0.2)
    certificate = load_certificate(theirs, CORES)
    assert certificate.ok is False or (certificate.ok is None and "/proc/stat" in certificate.reason)


def test_a_killed_sampler_leaves_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "series.jsonl"
    with Sampler(path, os.getpid(), 0.02) as running:
        until(lambda: lines(path) > 1)
        running._process.send_signal(signal.SIGKILL)
    series = Series.load(path)
    assert len(series.columns["t"]) > 1
    assert "the sampler died after" in series.problem


def test_ends_when_its_parent_is_killed(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "series.jsonl"
    code = "from harness.sampler import *; s = Sampler(Path({!r}), 1, 0.02).__enter__()\n"
    parent = start(code.format(str(path)) + "print(s._process.pid, flush=True); time.sleep(60)")
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    until(lambda: lines(path) > 1)
    parent.kill()
    until(lambda: b'"end":"its parent was gone"' in path.read_bytes())
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert Series.load(path).problem == ""


def stat(path: Path, parent: int, own: float, waited: float) -> None:
    """A file like /proc/PID/stat, with a page resident."""
    ticks = [round(seconds * sampler.TICK) for seconds in (own / 2, own / 2, waited, 0)]
    path.write_text(f"7 (a) b) S {parent} {'0 ' * 9}{' '.join(map(str, ticks))} {'0 ' * 6}1 0")


def test_cpu_time_never_falls_and_counts_once(tmp_path: Path) -> None:
    """A child's time comes back in that of the parent that waited for it, which may have had others unseen."""
    parent, child, orphan = (tmp_path / name for name in "abc")
    stat(parent, 1, 1, 0)
    stat(child, 10, 2, 0)
    stat(orphan, 1, 4, 0)
    session = Session(10)
    session._scanned = float("inf")
    for pid, path in ((10, parent), (11, child), (12, orphan)):
        session._members[pid] = Member(os.open(path, os.O_RDONLY), Times(0, 0.0, 0.0, 0))
    assert session.read(0) == (7, 3 * sampler.PAGE)
    child.write_text("")  # it is gone, and not yet in the parent's time
    orphan.write_text("")
    assert session.read(0) == (7, sampler.PAGE)
    stat(parent, 1, 1.5, 3.5)  # the child's 2 s, its last half, and one that lived between two scans
    assert session.read(0)[0] == 9
    assert session.read(0)[0] == 9


def test_finds_the_session(start: Start) -> None:
    child = "print(1, flush=True); import time; time.sleep(60)"
    leader = start(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])")
    assert leader.stdout is not None
    leader.stdout.readline()
    session = Session(leader.pid)
    seconds, rss = session.read(0)
    assert len(session._members) == 2
    assert rss > 1 << 20
    os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
    assert session.read(0)[0] >= seconds
    assert leader.pid not in session._members


def test_host_times_are_of_our_cpus_and_of_whole_lines() -> None:
    text = b"cpu  30 0 0 70 0 0 0 0 0 0\ncpu0 10 1 2 30 4 5 6 7 0 0\ncpu1 20 0 0 40 0 0 0 0 0 0\ncpu"
    assert sampler.host_times(text, {b"cpu"}) == (30 / sampler.TICK, 100 / sampler.TICK)
    assert sampler.host_times(text, {b"cpu0"}) == (31 / sampler.TICK, 65 / sampler.TICK)
    assert sampler.host_times(b"", {b"cpu"}) == (None, None)


def test_throttling_of_both_kinds_of_cgroup(tmp_path: Path) -> None:
    membership, mount = tmp_path / "cgroup", tmp_path / "mount"
    found = {
        mount / "cpu,cpuacct" / "a" / "cpu.stat": "nr_throttled 3\nthrottled_time 2000000000\n",
        mount / "unified" / "b" / "c" / "cpu.stat": "usage_usec 5\nnr_throttled 4\nthrottled_usec 500000\n",
        mount / "unified" / "b" / "cpu.stat": "usage_usec 5\n",
        mount / "memory" / "a" / "cpu.stat": "nr_throttled 9\n",
    }
    for path, text in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    membership.write_text("4:memory:/a\n2:cpu,cpuacct:/a/hidden\n0::/b/c\n")
    files = sampler.throttle_files(membership, mount)
    assert [sampler.throttling(file.read_bytes()) for file in files] == [(3, 2.0), (4, 0.5)]
    assert sampler.throttle_files(tmp_path / "none", mount) == []


class NotSupported(Exception):
    pass


def driver() -> Any:
    """NVML with two cards; the second has no energy counter."""

    def energy(card: int) -> int:
        if card == 1:
            raise NotSupported
        return 5000

    return SimpleNamespace(
        NVMLError=NotSupported, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetMemoryInfo=lambda card: SimpleNamespace(used=(card + 1) << 20),
        nvmlDeviceGetPowerUsage=lambda card: 1500, nvmlDeviceGetTotalEnergyConsumption=energy,
        nvmlDeviceGetClockInfo=lambda card, kind: 1000 * kind, nvmlDeviceGetTemperature=lambda card, kind: 40,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda card: 4,
        nvmlDeviceGetUtilizationRates=lambda card: SimpleNamespace(gpu=90),
        nvmlDeviceGetComputeRunningProcesses=lambda card: [None] * card,
    )  # fmt: skip


def test_gpus_are_asked_in_turn() -> None:
    cards = Cards(driver(), [0, 1])
    assert cards.read(0, whole=True) == {
        "used": [1 << 20, 2 << 20], "watts": [1.5, 1.5], "sm_mhz": [1000, 1000], "throttle": [4, 4],
        "utilisation": [90, 90], "millijoules": [5000, None], "memory_mhz": [2000, 2000], "celsius": [40, 40],
        "processes": [0, 1],
    }  # fmt: skip
    found = [cards.read(now, whole=False) for now in (0, 1, 2)]
    assert [f["watts"] for f in found] == [[1.5, None], [None, 1.5], [1.5, None]]
    assert [f["celsius"] for f in found] == [[40, None], [None, None], [None, 40]]


def test_a_row_holds_host_and_gpus() -> None:
    row = Probe(os.getsid(0), os.getpid(), driver(), [0]).row(whole=True)
    assert row["used"] == [1 << 20]
    assert row["own"] > 0
    assert row["light"] > 0
    assert row["available"] > 1 << 20
    assert "used" not in Probe(1, os.getpid(), driver(), []).row()

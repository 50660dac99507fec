"""A process of its own that samples the machine while one launch runs; `harness.series` reads what it wrote.

`python -m harness.sampler PATH PERIOD LEADER PARENT GPUS`: every PERIOD seconds a row of JSON is added to PATH in one
write, so that a kill loses nothing. It asks the first GPUS of those that an engine is shown. It ends on SIGTERM, or
when PARENT, the process that started it, is gone; the last line says which. What Python has to say when it dies goes
to the same file.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from harness.gpus import handles, nvml
from harness.paths import PROJECT

TICK = os.sysconf("SC_CLK_TCK")  # of /proc's CPU times, a second
PAGE = os.sysconf("SC_PAGE_SIZE")
HOST = 0.25  # seconds between two looks at the host while GPUs are asked more often
SLOW = 2.0  # seconds between two questions that are dear to ask a GPU
SCAN = 2.0  # seconds between two looks for new processes: reading all of /proc is dear
STOP = 1.0  # seconds that the sampler gets to write its last row; it needs milliseconds
WHOLE = 1 << 16  # bytes, more than all CPU lines of /proc/stat take
CGROUPS = Path("/sys/fs/cgroup")


class Sampler:
    """Samples to `path` until the context is left. `leader` leads the engine's session; `period` is in seconds; the
    first `gpus` are asked."""

    def __init__(self, path: Path, leader: int, period: float | None = None, gpus: int = 0) -> None:
        self.path, self.leader, self.gpus = path, leader, gpus
        self.period = period or (0.1 if gpus else 0.25)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
        self.path.unlink(missing_ok=True)
        with self.path.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.sampler", self.path, str(self.period), str(self.leader),
                 str(os.getpid()), str(self.gpus)], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True, env=os.environ | {"PYTHONPATH": found},
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the sampler after a last row. Never raises, may be called again; it may have died long before."""
        self._process.terminate()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold a killed process for a while
                self._process.wait(STOP)


def sample(path: Path, period: float, leader: int, parent: int, gpus: int) -> None:
    """The sampler's own process. Deadlines are absolute; those that were missed are left out."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # waited for below
    with path.open("ab", buffering=0) as out, nvml() if gpus else contextlib.nullcontext() as n:
        cards = handles(n)[:gpus] if gpus else []
        probe, deadline, end = Probe(leader, parent, n, cards), time.monotonic(), ""
        row = probe.row(whole=True)
        while out.write(json.dumps(row, separators=(",", ":")).encode() + b"\n") and not end:
            deadline += period * max(1, -((deadline - time.monotonic()) // period))
            if signal.sigtimedwait({signal.SIGTERM}, max(0.0, deadline - time.monotonic())):
                end = "stopped"
            elif os.getppid() != parent:
                end = "its parent was gone"
            row = probe.row(whole=bool(end)) | ({"end": end} if end else {})


class Probe:
    """Reads rows: CPU times in seconds, memory in bytes, and what `Cards` says; null where nothing answers."""

    def __init__(self, leader: int, parent: int, n: Any, handles: list[Any]) -> None:
        self._session, self._light = Session(leader, parent), _open(f"/proc/{parent}/stat")
        self._stat, self._load, self._memory = map(_open, ("/proc/stat", "/proc/loadavg", "/proc/meminfo"))
        self._throttles = [_open(path) for path in throttle_files(Path("/proc/self/cgroup"), CGROUPS)]
        count, mine = _read(self._stat, WHOLE).count(b"\ncpu"), os.sched_getaffinity(0)
        self._cpus = {b"cpu"} if count == len(mine) else {b"cpu%d" % i for i in mine}
        self._cards, self._often, self._looked = Cards(n, handles), bool(handles), 0.0

    def row(self, whole: bool = False) -> dict[str, Any]:
        """`whole` asks the host and all GPUs everything, as the first and the last row do."""
        row = {"t": time.monotonic()}
        if whole or not self._often or row["t"] - self._looked >= HOST:
            self._looked = row["t"]
            row |= self._host(row["t"])
        return row | self._cards.read(row["t"], whole)

    def _host(self, now: float) -> dict[str, Any]:
        busy, total = host_times(_read(self._stat, 256 if self._cpus == {b"cpu"} else WHOLE), self._cpus)
        light = Times.of(_read(self._light))
        memory, load = _read(self._memory, 256).split(), _read(self._load).split()
        available = int(memory[memory.index(b"MemAvailable:") + 1]) * 1024 if b"MemAvailable:" in memory else None
        own, rss = self._session.read(now)
        row: dict[str, Any] = {
            "busy": busy, "total": total, "load": float(load[0]) if load else None, "available": available,
            "own": own, "rss": rss, "light": light and light.own, "sampler": time.process_time(),
        }  # fmt: skip
        if said := [found for file in self._throttles if (found := throttling(_read(file)))]:
            row |= {"throttles": sum(count for count, _ in said), "throttled": sum(seconds for _, seconds in said)}
        return row


Asks = dict[str, Callable[[Any, Any], Any]]
OFTEN: Asks = {  # some 60 µs each
    "used": lambda n, card: n.nvmlDeviceGetMemoryInfo(card).used,
    "watts": lambda n, card: n.nvmlDeviceGetPowerUsage(card) / 1000,
    "sm_mhz": lambda n, card: n.nvmlDeviceGetClockInfo(card, n.NVML_CLOCK_SM),
    "throttle": lambda n, card: n.nvmlDeviceGetCurrentClocksThrottleReasons(card),
    "utilisation": lambda n, card: n.nvmlDeviceGetUtilizationRates(card).gpu,
}
SELDOM: Asks = {  # the energy counter takes 5 ms of CPU on an H100
    "millijoules": lambda n, card: n.nvmlDeviceGetTotalEnergyConsumption(card),
    "memory_mhz": lambda n, card: n.nvmlDeviceGetClockInfo(card, n.NVML_CLOCK_MEM),
    "celsius": lambda n, card: n.nvmlDeviceGetTemperature(card, n.NVML_TEMPERATURE_GPU),
    "processes": lambda n, card: len(n.nvmlDeviceGetComputeRunningProcesses(card)),
}


class Cards:
    """The GPUs, in turn, so that many cost no more than one: each row asks one OFTEN, each SLOW seconds one SELDOM."""

    def __init__(self, n: Any, handles: list[Any]) -> None:
        self._n, self._handles = n, handles
        self._often, self._seldom = (itertools.cycle(range(len(handles))) for _ in range(2))
        self._asked = -SLOW

    def read(self, now: float, whole: bool) -> dict[str, list[Any]]:
        """A list by name, with null for a card that was not asked now or does not answer."""
        every = range(len(self._handles))
        found: dict[str, list[Any]] = {name: [None for _ in every] for name in (OFTEN | SELDOM if every else ())}
        if whole or not every:
            self._ask(found, every, OFTEN | SELDOM)
            return found
        self._ask(found, [next(self._often)], OFTEN)
        if now - self._asked >= SLOW:
            self._asked = now
            self._ask(found, [next(self._seldom)], SELDOM)
        return found

    def _ask(self, found: dict[str, list[Any]], cards: Iterable[int], asks: Asks) -> None:
        for i, (name, ask) in itertools.product(cards, asks.items()):
            with contextlib.suppress(self._n.NVMLError):  # not every card and driver answers everything
                found[name][i] = ask(self._n, self._handles[i])


@dataclass(frozen=True)
class Times:
    """A process's CPU seconds, those of its children that it waited for, and its resident bytes."""

    parent: int
    own: float
    waited: float
    rss: int

    @classmethod
    def of(cls, stat: bytes) -> "Times | None":
        """From /proc/PID/stat; None for a process that is gone."""
        f = stat[stat.rfind(b")") + 2 :].split()  # a name may hold spaces and brackets
        if not f:
            return None
        return cls(int(f[1]), (int(f[11]) + int(f[12])) / TICK, (int(f[13]) + int(f[14])) / TICK, int(f[21]) * PAGE)


@dataclass
class Member:
    """A process of the session. `counted` is in the sum already; `debt` of ended children will come again as waited."""

    file: int
    last: Times
    counted: float = 0.0
    debt: float = 0.0


class Session:
    """The processes of an engine's session, and of the other sessions that `parent` has its children lead (senders of
    weights): their CPU seconds never fall, whoever of them ends."""

    def __init__(self, leader: int, parent: int = 0) -> None:
        self._parent, self._scanned, self._seconds = parent, -SCAN, 0.0
        self._ours = {leader: True, os.getpid(): False}  # by session
        self._members: dict[int, Member] = {}

    def read(self, now: float) -> tuple[float, int]:
        """CPU seconds so far and resident bytes now. Children that lived between two scans count when waited for."""
        if now - self._scanned >= SCAN:
            self._scanned = now
            self._scan()
        waited: list[tuple[Member, float]] = []
        for pid, member in list(self._members.items()):
            if (times := Times.of(_read(member.file))) is None:
                self._leave(pid)
                continue
            self._count(member, times.own - member.last.own)
            waited.append((member, times.waited - member.last.waited))
            member.last = times
        for member, grown in waited:  # after all who ended are known
            paid = min(member.debt, grown)
            member.debt -= paid
            self._count(member, grown - paid)
        return round(self._seconds, 2), sum(member.last.rss for member in self._members.values())

    def _count(self, member: Member, seconds: float) -> None:
        self._seconds += max(0.0, seconds)
        member.counted += max(0.0, seconds)

    def _leave(self, pid: int) -> None:
        member = self._members.pop(pid)
        os.close(member.file)
        if parent := self._members.get(member.last.parent):
            parent.debt += member.counted
            parent.counted += member.counted

    def _scan(self) -> None:
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                if pid not in self._members and self._own(os.getsid(pid)) and (file := _open(f"/proc/{pid}/stat")):
                    self._members[pid] = Member(file, Times(0, 0.0, 0.0, 0))

    def _own(self, session: int) -> bool:
        if session not in self._ours:
            times = Times.of(Path(f"/proc/{session}/stat").read_bytes())
            self._ours[session] = times is not None and times.parent == self._parent
        return self._ours[session]


def host_times(stat: bytes, cpus: set[bytes]) -> tuple[float | None, float | None]:
    """Seconds that these lines of /proc/stat were busy (time stolen by other guests included), and all seconds."""
    lines = stat[: stat.rfind(b"\n") + 1].splitlines()  # the last may be cut
    rows = [[int(x) for x in f[1:9]] for line in lines if (f := line.split()) and f[0] in cpus]
    if not rows:
        return None, None
    total = sum(map(sum, rows))
    return (total - sum(row[3] + row[4] for row in rows)) / TICK, total / TICK  # idle and waiting for a disk


def throttle_files(membership: Path, mount: Path) -> list[Path]:
    """`cpu.stat` of each cgroup above us, v1 and v2, that says how often it was throttled."""
    found: dict[Path, None] = {}
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (mount / controllers, mount / "cpu") if controllers else (mount, mount / "unified"):
            inner = root / path.strip("/")
            above = [folder for folder in (inner, *inner.parents) if folder.is_relative_to(root)]
            found |= dict.fromkeys((folder / "cpu.stat").resolve() for folder in above)
    return [file for file in found if file.exists() and throttling(file.read_bytes())]


def throttling(stat: bytes) -> tuple[int, float] | None:
    """How often, and for how many seconds (summed over CPUs), a cgroup was throttled; None when it does not say."""
    fields = dict(line.split() for line in stat.splitlines())
    if b"nr_throttled" not in fields:
        return None
    seconds = int(fields.get(b"throttled_usec", 0)) / 1e6 + int(fields.get(b"throttled_time", 0)) / 1e9
    return int(fields[b"nr_throttled"]), seconds


def _open(path: str | Path) -> int | None:
    """A descriptor to keep; None where there is no such file."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _read(file: int | None, size: int = 4096) -> bytes:
    """The file from its beginning, as it is now; nothing when its process is gone."""
    try:
        return b"" if file is None else os.pread(file, size, 0)
    except OSError:
        return b""


if __name__ == "__main__":
    sample(Path(sys.argv[1]), float(sys.argv[2]), *map(int, sys.argv[3:6]))

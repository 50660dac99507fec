"""The light side of a worker: start it, call it, notice its death at once, end its whole process group."""

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, Self

import psutil

from harness.errors import BadOffer, LaunchFailed
from harness.paths import PACKAGE, PROJECT, shared_memory
from harness.segments import Segments
from harness.wire import Closed, Message, Wire

SCRATCH = "rollbench-"  # then the light process's number: folders in shared memory, one a worker
TAIL = 25  # lines of a log that an error shows
GRACE = 5.0  # seconds that the processes of an ended group get to be gone
BLAME = 0.5  # seconds in which a death is the cause of an error that came before it was seen
WORDS = 600  # characters of an error that stand in the line a person reads; all of it is in the log


@dataclass(frozen=True)
class Reply:
    """What a call returned, and the seconds it took on the worker's clock."""

    value: Any
    seconds: float


@dataclass
class Worker:
    """One engine process and all that it starts, in a process group of its own.

    The interpreter sees this package alone through PYTHONPATH (a folder with a link to it), so that packages of the
    light environment never shadow an engine's own. What they leave in shared memory is removed when they have ended.
    Raises LaunchFailed when it does not start.
    """

    engine: str
    python: str
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    paths: tuple[Path, ...] = ()  # further folders for PYTHONPATH: the shims
    module: str = "harness.worker"

    def __post_init__(self) -> None:
        sweep(shared_memory())
        self._scratch = tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", dir=shared_memory())
        self.folder = Path(self._scratch.name)
        (self.folder / "site").mkdir()
        for package in (PACKAGE, PROJECT / "trainers"):
            (self.folder / "site" / package.name).symlink_to(package)
        self.segments = Segments()
        self.started = time.monotonic()
        there, back = os.pipe(), os.pipe()
        self._wire = Wire(back[0], there[1])
        try:
            self._process = self._begin(there[0], back[1])
        except OSError as error:
            self._wire.close()
            self._scratch.cleanup()
            advice = "`rollbench doctor` says which engines can run"
            raise LaunchFailed(f"{self.engine}: {self.python} does not start ({error}): {advice}") from None
        finally:
            os.close(there[0])
            os.close(back[1])
        self._pidfd = os.pidfd_open(self.pid)
        self._heard: Message | None = None  # an answer that came while another worker's was waited for
        self._asked = "its start"
        self.ended, self.why = False, "it was closed"

    def _begin(self, incoming: int, outgoing: int) -> "subprocess.Popen[bytes]":
        variables = environment(self.environment, (self.folder / "site", *self.paths))
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [self.python, "-m", self.module, self.engine, str(incoming), str(outgoing)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(incoming, outgoing),
                start_new_session=True, env=variables, cwd=self.folder,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, name: str, timeout: float, watch: Sequence["Worker"] = (), **args: Any) -> Reply:
        """Ask the worker; `timeout` in seconds. Any error, death or time-out ends the group and raises LaunchFailed; so
        does that of one of those to `watch`, at work on the same call: the first that fails ends them all. Raises
        BadOffer, and ends nothing, for what was refused before anything was touched."""
        self.post(name, watch, **args)
        return self.answer(name, timeout, watch)

    def post(self, name: str, watch: Sequence["Worker"] = (), **args: Any) -> None:
        """Ask without waiting; `answer` has what comes back."""
        self.tell({"call": name, "args": args}, watch)

    def answer(self, name: str, timeout: float, watch: Sequence["Worker"] = ()) -> Reply:
        """What came of the call that was posted last."""
        others = [worker for worker in watch if worker is not self]
        message = self._next(name, timeout, others)
        if message.get("sound"):
            raise BadOffer(f"{self.engine}: {name} refused: {shorten(message['error'], WORDS)}")
        if "error" in message:
            raise self._wrong(name, message["error"], others)
        return Reply(message["value"], message["seconds"])

    def ask(self, message: Message, timeout: float) -> Message:
        """Send a message and wait for the next one that comes."""
        self.tell(message)
        return self._next(self._asked, timeout)

    def _next(self, name: str, timeout: float, others: Sequence["Worker"] = ()) -> Message:
        deadline, late = time.monotonic() + timeout, f"no answer to {name} within {timeout:g} s"
        try:
            while self._heard is None:
                if not (ready := _ready((self, *others), deadline)):
                    raise self._failed(late, others)
                for worker in ready:
                    worker._hear(deadline, (self, *others))
            found, self._heard = self._heard, None
            return found
        except TimeoutError:
            raise self._failed(late, others) from None
        except BaseException:  # Ctrl-C among them: nothing may stay behind
            self.end("it was interrupted")
            raise

    def _hear(self, deadline: float, all_: Sequence["Worker"]) -> None:
        """Take what it says. Raises LaunchFailed where it is dead, or failed while another is waited for."""
        try:
            self._heard = self._wire.receive(deadline, self._pidfd)
        except Closed:
            raise self._failed(f"died in {self._asked}", all_) from None
        if "error" in self._heard and all_[0] is not self:
            raise self._wrong(self._asked, self._heard["error"], all_)

    def _wrong(self, name: str, text: str, others: Sequence["Worker"]) -> LaunchFailed:
        """Its error, or the death of one of the others where that was the cause."""
        others = [other for other in others if other is not self]
        for dead in _ready(others, time.monotonic() + BLAME, dead=True):
            return dead._failed(f"died in {dead._asked}", (self, *others))
        return self._failed(f"{name} failed: {shorten(text, WORDS)}", others)

    def must_live(self, asked: str) -> None:
        """Raises LaunchFailed where the worker was ended, and says why."""
        if self.ended:
            raise LaunchFailed(f"{self.engine}: cannot {asked}, it was ended: {self.why}")

    def tell(self, message: Message, watch: Sequence["Worker"] = ()) -> None:
        """Send a message that has no answer."""
        asked = self._asked = str(message.get("call", "its work"))
        self.must_live(asked)
        try:
            self._wire.send(message)
        except Closed:
            raise self._failed(f"died in {asked}", watch) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _failed(self, what: str, others: Sequence["Worker"] = ()) -> LaunchFailed:
        """The error of a worker that did this, which ends it and those that worked with it."""
        self.end()
        code, together = self._process.returncode, [other for other in others if other is not self and not other.ended]
        how = f" (exit status {code})" if what.startswith("died") else ""
        ended = f"; ended with it: {', '.join(other.engine for other in together)}" if together else ""
        self.why = f"{self.engine}: {what}{how}{ended} (log: {self.log})"
        for other in together:
            other.end(self.why)
        return LaunchFailed(f"{self.why}\n--- the end of {self.log}:\n{tail(self.log)}")

    def close(self, timeout: float = 60.0) -> list[str]:
        """Ask the engine to end itself; names of the processes that did not, and had to be killed."""
        if self.ended:
            return []
        self.look()
        self.call("close", timeout)
        select.select([self._pidfd], [], [], timeout)
        deadline = time.monotonic() + GRACE
        while (left := group(self.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        names = [name_of(process) for process in left]
        self.end()
        return names

    def end(self, why: str = "it was closed") -> None:
        """Kill what is left of the group and free what the worker held. Never raises, may be called again."""
        if self.ended:
            return
        self.ended, self.why = True, why
        self.look()
        kill_group(self.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold a killed process for a while
            self._process.wait(GRACE)
        self._wire.close()
        os.close(self._pidfd)
        self._scratch.cleanup()
        self.segments.remove()

    def look(self) -> None:
        """Note what the processes have in shared memory now: one that dies can no longer be asked."""
        self.segments.look(process.pid for process in group(self.pid))


def _ready(workers: Sequence[Worker], deadline: float, dead: bool = False) -> list[Worker]:
    """Those that have something to say that was not heard yet, or have died, once there is one; with `dead` only those
    that have died. None at the deadline."""
    poll, found = select.poll(), dict[int, Worker]()
    if not dead and (read := [worker for worker in workers if worker._heard is None and worker._wire.pending]):
        return read
    for worker in workers:
        said = [] if dead or worker._heard is not None else [worker._wire.incoming]
        for descriptor in () if worker.ended else (worker._pidfd, *said):
            found[descriptor] = worker
            poll.register(descriptor, select.POLLIN)
    ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000) if found else []
    return [worker for worker in workers if any(found[descriptor] is worker for descriptor, _ in ready)]


def group(leader: int) -> list[psutil.Process]:
    """Live processes of the session that `leader` leads: a child that makes a process group of its own stays in it,
    so does one whose parent has died."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader and (process := psutil.Process(pid)).status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    return found


def kill_group(leader: int) -> None:
    """Kill every process of the session that `leader` leads, and those they start meanwhile."""
    deadline = time.monotonic() + GRACE
    while (left := group(leader)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.01)


def environment(variables: Mapping[str, str], paths: Sequence[Path]) -> dict[str, str]:
    """The variables of an engine's process: this one's, less those that would show it packages of the light
    environment. CUDA numbers GPUs as the sampler does, where it would begin with the fastest."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    kept["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return kept | dict(variables) | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONUNBUFFERED": "1"}


def sweep(folder: Path) -> None:
    """Remove the scratch folders of light processes that were killed before they could."""
    for scratch in folder.glob(f"{SCRATCH}[0-9]*-*"):
        if not psutil.pid_exists(int(scratch.name.removeprefix(SCRATCH).partition("-")[0])):
            shutil.rmtree(scratch, ignore_errors=True)


def name_of(process: psutil.Process) -> str:
    try:
        return f"{process.name()} ({process.pid})"
    except psutil.NoSuchProcess:
        return str(process.pid)


def tail(path: Path, lines: int = TAIL) -> str:
    """The last lines of a file, however large."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error})"

"""Engine environments: which interpreter runs an engine on this machine, and how one is built from its lock."""

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import EnvironmentMissing, UserError, nearest
from harness.machine import gpu_names
from harness.paths import PACKAGE, PROJECT, cache_home
from harness.worker.engines import ENGINES

REQUIREMENTS = PROJECT / "requirements"
PYTHONS = {"cpu": "3.11", "cuda": "3.12"}  # of each lane that is built here
PAIR = ("sglang", "vllm")  # the real engines; a ratio is the second's figure over the first's
READY = "ready"  # file that says an environment was built to its end
SHIMS = {("sglang", "cpu"): "sglang_cpu"}  # (engine, lane): folder of harness/worker/shims


@dataclass(frozen=True)
class Environment:
    """An engine's interpreter. `lock_hash` is that of its lock file, or in lane `carried` of what is installed."""

    engine: str
    lane: str
    python: str
    lock_hash: str

    @property
    def device(self) -> str:
        return "cuda" if self.lane != "cpu" and self.engine != "fake" and gpu_names() else "cpu"

    @property
    def shims(self) -> str:
        return SHIMS.get((self.engine, self.lane), "")

    @property
    def paths(self) -> tuple[Path, ...]:
        return (PACKAGE / "worker" / "shims" / self.shims,) if self.shims else ()


def known(engine: str) -> str:
    """The engine's name. Raises UserError for one that there is not."""
    if engine not in ENGINES:
        raise UserError(f"no engine {engine!r}: {nearest(engine, ENGINES)}")
    return engine


def find(engine: str) -> Environment:
    """The environment that runs this engine here. Raises EnvironmentMissing with the command that makes it."""
    if known(engine) == "fake":
        return Environment("fake", "light", sys.executable, lock_hash(REQUIREMENTS / "light.txt"))
    variable = _variable(engine)
    if carried := os.environ.get(variable):
        python = str(Path(carried).absolute())  # not resolved: a virtual environment's interpreter is a link
        return Environment(engine, "carried", python, installed_hash(python, variable))
    environment = _here(engine)
    if not _ready(environment):
        raise EnvironmentMissing(
            f"no {environment.lane} environment for {engine}: build it with `nox -s env-{engine}`, or name an "
            f"interpreter that has it in {variable}"
        )
    return environment


def build(engine: str, tell: Callable[[str], None]) -> Environment:
    """The engine's environment, built from this machine's lock if it is not there yet.

    Raises UserError when uv fails; what it printed has gone to standard error.
    """
    try:
        return find(engine)
    except EnvironmentMissing:
        if os.environ.get(_variable(engine)):
            raise
    environment = _here(engine)
    lane, folder = environment.lane, Path(environment.python).parents[1]
    with _locked(folder):
        if not _ready(environment):
            tell(f"building {folder} from {_lock(engine, lane).name}")
            shutil.rmtree(folder, ignore_errors=True)
            uv("venv", "--quiet", "--python", PYTHONS[lane], str(folder),
               advice=f"lane {lane} needs Python {PYTHONS[lane]}; install it, or let uv fetch it")  # fmt: skip
            uv("pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes", "--python", environment.python,
               *torch_source(lane), str(_lock(engine, lane)),
               advice="the package registry must be reached; run the same command again")  # fmt: skip
            (folder / READY).touch()
    return environment


def _variable(engine: str) -> str:
    return f"ROLLBENCH_{engine.upper()}_PYTHON"


def _here(engine: str) -> Environment:
    """The environment that this machine's lane has for the engine, built or not."""
    lane = "cuda" if gpu_names() else "cpu"
    lock = lock_hash(_lock(engine, lane))
    folder = cache_home() / "envs" / f"{engine}-{lane}-{lock[:8]}"
    return Environment(engine, lane, str(folder / "bin" / "python"), lock)


def _lock(engine: str, lane: str) -> Path:
    return REQUIREMENTS / f"{engine}-{lane}.txt"


def _ready(environment: Environment) -> bool:
    python = Path(environment.python)
    return python.exists() and python.parents[1].joinpath(READY).exists()


def lock_hash(path: Path) -> str:
    """SHA-256 of a lock file. Raises UserError when it is not there."""
    if not path.is_file():
        raise UserError(f"lock file {path} is missing: `nox -s lock` makes it, from a checkout")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def installed(python: str) -> str:
    """Names and versions of the distributions that an interpreter sees, a line each. Raises OSError or
    CalledProcessError when it does not run."""
    names = "sorted({f'{d.name}=={d.version}' for d in m.distributions()})"
    code = f"import importlib.metadata as m; print(*{names}, sep='\\n')"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


@functools.cache
def installed_hash(python: str, variable: str) -> str:
    """SHA-256 of what is installed beside an interpreter made elsewhere. Raises EnvironmentMissing when it does not
    run; `variable` is what named it."""
    try:
        return hashlib.sha256(installed(python).encode()).hexdigest()
    except OSError as error:
        raise EnvironmentMissing(f"{variable} names {python}, which is no interpreter: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [""])[-1]
        raise EnvironmentMissing(
            f"{variable} names {python}, which fails with status {error.returncode}: {last}"
        ) from None


def uv(*arguments: str, advice: str) -> None:
    """Run uv. Raises UserError with `advice` when it fails; its own words have gone to standard error."""
    import uv as package

    if status := subprocess.run([package.find_uv_bin(), *arguments], check=False).returncode:
        raise UserError(f"uv {arguments[0]} failed (exit status {status}, its words stand above): {advice}")


def torch_source(lane: str) -> list[str]:
    """Where uv finds a build of torch without CUDA: the folder that pip is told of, else PyTorch's own index."""
    if lane != "cpu":
        return []
    command = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    links = (
        os.environ.get("PIP_FIND_LINKS") or subprocess.run(command, capture_output=True, text=True, check=False).stdout
    )
    return [f"--find-links={link}" for link in links.split()] or ["--torch-backend=cpu"]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One builder at a time: a second waits, then finds it built."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""Sessions only; what they do is in the package. `nox -s bench-sglang bench-vllm` is the main job."""

import os
import pathlib
import shutil

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "tests"]

ENGINES = ("sglang", "vllm")
asked: list[str] = []  # engines that bench sessions have named, for the one that measures them


def light(session: nox.Session, lock: str = "light") -> None:
    """The light environment from its lock, with this checkout in it."""
    session.run_install(
        "uv", "pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes", f"requirements/{lock}.txt"
    )
    session.install("--quiet", "--no-deps", "--editable", ".")


def make_env(session: nox.Session, engine: str) -> None:
    light(session)
    session.run("rollbench", "env", engine)


def make_bench(session: nox.Session, engine: str) -> None:
    asked.append(engine)
    session.notify("bench")


def make_contract(session: nox.Session, engine: str) -> None:
    light(session, "dev")
    session.run("rollbench", "env", engine)
    session.run("pytest", "tests/contract", "-m", "real", "--engine", engine, "--durations=20", *session.posargs)


for engine in ENGINES:
    for name, make, backend in (
        ("env", make_env, None),
        ("bench", make_bench, "none"),
        ("contract", make_contract, None),
    ):

        def function(session: nox.Session, engine: str = engine, make: object = make) -> None:
            make(session, engine)  # type: ignore[operator]

        function.__doc__ = f"{make.__name__.split('_')[1]} of {engine}"
        nox.session(function, name=f"{name}-{engine}", venv_backend=backend)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the main job on the engines asked for (both, when called alone), interleaved, and show the table."""
    light(session)
    for engine in asked:
        session.run("rollbench", "env", engine)
    engines = (f"--engine={name}" for name in asked or ENGINES)
    # Time to end the engines and to say how to go on, when it is interrupted.
    session.run("rollbench", "run", *engines, *session.posargs, interrupt_timeout=30, terminate_timeout=30)


@nox.session
def tests(session: nox.Session) -> None:
    """Unit tests, and the contract on the fake engine."""
    light(session, "dev")
    session.run("pytest", "-m", "not real", "-n", "auto", "--dist", "loadfile", *session.posargs)


@nox.session
def page(session: nox.Session) -> None:
    """The page in a real Chromium: $CHROMIUM, or the one on the path (Debian: apt-get install chromium)."""
    light(session, "dev")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        session.error("no chromium: apt-get install chromium, or name one in $CHROMIUM")
    fetch = ("npm", "ci", "--silent", "--ignore-scripts", "--prefix", "tests/page")
    if shutil.which("npm"):
        session.run(*fetch, external=True, success_codes=range(256), silent=True)
    if not pathlib.Path("tests/page/node_modules").is_dir():
        session.warn("axe-core needs npm and its registry: its tests are skipped")
    session.run("pytest", "tests/page", "--chromium", found, *session.posargs)


@nox.session(python="3.11")
def trainers(session: nox.Session) -> None:
    """Tests of trainers/, in an environment with torch for the CPU."""
    light(session)  # it knows where such a build of torch is
    find = "from harness.envs import torch_source; print(*torch_source('cpu'))"
    source = str(session.run("python", "-c", find, silent=True)).split()
    lock = "requirements/trainers-cpu.txt"
    session.run_install("uv", "pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes", *source, lock)
    session.install("--quiet", "--no-deps", "--editable", ".")
    session.run("pytest", "tests/trainers", "-n", "auto", *session.posargs)


@nox.session
def speed(session: nox.Session) -> None:
    """Time the harness's own hot paths against the base that this machine has stored; the first run stores it.

    A base is of one machine: `rm -r .rollbench/speed` forgets it. It fails where a median is half as long again.
    """
    light(session, "dev")
    kept = pathlib.Path(".rollbench/speed")
    against = ["--benchmark-compare", "--benchmark-compare-fail=median:50%"]
    how = against if any(kept.rglob("*.json")) else ["--benchmark-save=base"]
    session.run(
        "pytest", "tests/speed", "--override-ini=addopts=-q", "--benchmark-only", "--benchmark-warmup=on",
        f"--benchmark-storage=file://{kept}", *how, *session.posargs,
    )  # fmt: skip


@nox.session
def learning(session: nox.Session) -> None:
    """Learning curves of every algorithm on both engines, into docs/: an hour."""
    light(session)
    for engine in ENGINES:
        session.run("rollbench", "env", engine)
        session.run("python", "-m", "tests.learning", engine)
    session.run("python", "-m", "tests.learning")


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint, types (trainers/ in the vLLM environment, which has torch), the tracked report and guide."""
    light(session, "dev")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy", "-p", "harness", "-p", "benchmarks")
    session.run("rollbench", "report", "--check")
    session.run("rollbench", "guide", "--check")
    with_torch = str(session.run("rollbench", "env", "vllm", silent=True)).splitlines()[-1]
    session.run("mypy", "-p", "trainers", "--python-executable", with_torch)


@nox.session
def lock(session: nox.Session) -> None:
    """Resolve every lock of requirements/ anew."""
    light(session)
    session.run("python", "requirements/lock.py", *session.posargs)

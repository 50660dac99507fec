"""What is on this machine, which lanes and engines can run, and what to do about what cannot."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from harness import envs, machine, paths, store, troubles
from harness.errors import UserError
from harness.gpus import VISIBLE
from harness.troubles import Finding

DISK_GIB = 8  # both CPU environments with uv's cache


def findings(root: Path) -> Iterator[Finding]:
    found = machine.fingerprint()
    yield Finding("ok", f"{found.cpu}, {found.cores} cores, {found.ram_gib:g} GiB of memory, Linux {found.kernel}")
    if found.gpus:
        yield Finding("ok", f"GPUs: {', '.join(found.gpus)}, driver {found.driver}: the cuda lane")
    else:
        hidden = f" ({VISIBLE} is {os.environ[VISIBLE]!r})" if VISIBLE in os.environ else ""
        yield Finding("ok", f"no GPU that NVML shows{hidden}: the cpu lane, with tiny models")
    yield _load()
    yield _shared_memory()
    yield _disk()
    yield from troubles.findings()
    for engine in envs.PAIR:
        yield _environment(engine)
    yield _other_lanes()
    try:
        yield Finding("ok", f"results go to {store.writable(root)}")
    except UserError as error:
        yield Finding("error", str(error), "choose a folder that you can write with --results or ROLLBENCH_RESULTS")


def _load() -> Finding:
    load, cores = os.getloadavg()[0], machine.fingerprint().cores
    if load > cores / 2:
        return Finding(
            "warning", f"load average {load:.1f} on {cores} cores", "end what else runs here before measuring"
        )
    return Finding("ok", f"load average {load:.1f}")


def _shared_memory() -> Finding:
    where = paths.shared_memory()
    free = shutil.disk_usage(where).free >> 20
    if where == Path(tempfile.gettempdir()):
        return Finding("warning", f"no /dev/shm: tokens travel through {where}", "mount a tmpfs on /dev/shm")
    state: Literal["ok", "warning"] = "ok" if free > 256 else "warning"
    return Finding(state, f"shared memory: {free} MiB free in {where}", "" if free > 256 else "enlarge /dev/shm")


def _disk() -> Finding:
    home = paths.cache_home()
    existing = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(existing).free >> 30
    if free < DISK_GIB:
        return Finding(
            "warning", f"{free} GiB free for {home}", f"environments take about {DISK_GIB} GiB: set ROLLBENCH_HOME"
        )
    return Finding("ok", f"{free} GiB free for environments and models in {home}")


def _environment(engine: str) -> Finding:
    """Whether the lane that this machine takes can run the engine."""
    try:
        found = envs.find(engine)
        version = next(
            line
            for line in envs.installed(found.python).splitlines()
            if line.startswith((f"{engine}=", f"{engine}-cpu="))
        )
    except UserError as error:
        return Finding("error", f"{engine} cannot run", str(error))
    except (StopIteration, OSError, subprocess.CalledProcessError):
        return Finding(
            "error",
            f"{engine} cannot run",
            f"{found.python} does not have it: remove its folder, then `nox -s env-{engine}`",
        )
    return Finding("ok", f"{engine} can run in lane {found.lane}: {version}, {found.python}")


def _other_lanes() -> Finding:
    variables = "ROLLBENCH_VLLM_PYTHON and ROLLBENCH_SGLANG_PYTHON"
    gpu = "the cuda lane is taken" if machine.gpu_names() else "the cuda lane needs an NVIDIA GPU with its driver"
    return Finding("ok", f"{gpu}; the carried lane takes interpreters that {variables} name")

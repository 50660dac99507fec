"""The machine: what it is (compared between records) and the state it is in (recorded, never compared)."""

import functools
import os
import platform
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil
from pydantic import BaseModel, ConfigDict

from harness.gpus import handles, nvml

MIB = 1 << 20
WATCHED_EVERY = 0.01  # seconds


class Machine(BaseModel):
    """A fingerprint. Records can be compared when `cpu`, `cores`, `gpus` and `driver` agree."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str  # a name for people and folders
    cpu: str
    cores: int
    ram_gib: float
    gpus: tuple[str, ...]
    driver: str
    kernel: str

    def same_kind(self) -> dict[str, object]:
        return {"cpu": self.cpu, "cores": self.cores, "gpus": self.gpus, "driver": self.driver}


@functools.cache
def fingerprint() -> Machine:
    cpu, cores = cpu_model(), len(os.sched_getaffinity(0))
    with nvml() as n:
        cards = handles(n)
        gpus = tuple(str(n.nvmlDeviceGetName(h)) for h in cards)
        driver = str(n.nvmlSystemGetDriverVersion()) if cards else ""
    name = f"{len(gpus)}x-{gpus[0]}" if gpus else f"{cpu}-{cores}-cores"
    return Machine(
        id=re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
        cpu=cpu,
        cores=cores,
        ram_gib=round(psutil.virtual_memory().total / (1 << 30), 1),
        gpus=gpus,
        driver=driver,
        kernel=platform.release(),
    )


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def state() -> dict[str, Any]:
    """Load and memory now, and of each GPU its memory, clocks, temperature, power and throttle reasons."""
    frequency = psutil.cpu_freq()
    now: dict[str, Any] = {
        "load_average": round(os.getloadavg()[0], 2),
        "cpu_mhz": round(frequency.current) if frequency else None,
        "ram_available_gib": round(psutil.virtual_memory().available / (1 << 30), 2),
    }
    with nvml() as n:
        if cards := handles(n):
            now["gpus"] = [_gpu_state(n, h) for h in cards]
    return now


def device_memory_mib() -> list[int]:
    """Memory in use on each GPU that an engine is shown, as the driver counts it, all processes together."""
    with nvml() as n:
        return [int(n.nvmlDeviceGetMemoryInfo(h).used) // MIB for h in handles(n)]


class Watch:
    """The most memory in use on each GPU while the context is open, in MiB; a thread asks often, since what is taken
    for a moment is over before the sampler looks."""

    def __enter__(self) -> Self:
        self.most = device_memory_mib()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._take()

    def _ask(self) -> None:
        with nvml():  # held open, so that each question is cheap
            while self.most and not self._end.wait(WATCHED_EVERY):
                self._take()

    def _take(self) -> None:
        self.most = [max(pair) for pair in zip(self.most, device_memory_mib(), strict=True)]


def available_gib() -> float:
    """Host memory that can be had without swapping."""
    return psutil.virtual_memory().available / (1 << 30)


def gpu_names() -> tuple[str, ...]:
    return fingerprint().gpus


def _gpu_state(n: Any, handle: Any) -> dict[str, Any]:
    reads: dict[str, Callable[[], Any]] = {
        "used_mib": lambda: int(n.nvmlDeviceGetMemoryInfo(handle).used) // MIB,
        "sm_mhz": lambda: n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_SM),
        "memory_mhz": lambda: n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_MEM),
        "celsius": lambda: n.nvmlDeviceGetTemperature(handle, n.NVML_TEMPERATURE_GPU),
        "watts": lambda: n.nvmlDeviceGetPowerUsage(handle) / 1000,
        "throttle_reasons": lambda: n.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
    }
    found: dict[str, Any] = {}
    for name, read in reads.items():
        try:
            found[name] = read()
        except n.NVMLError:  # not every card and driver answers everything
            found[name] = None
    return found

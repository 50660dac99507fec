"""The fingerprint and the state of a machine."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import client, doctor, envs, gpus, machine, sampler
from harness.rig import Rig
from harness.scenario import Options
from harness.series import Series
from tests.test_sampler import NotSupported, driver

UUIDS = ("GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3")


def test_fingerprint_names_the_machine() -> None:
    found = machine.fingerprint()
    assert re.fullmatch(r"[a-z0-9-]+", found.id)
    assert found.cores >= 1
    assert found.ram_gib > 0
    assert bool(found.gpus) == bool(found.driver)


def test_state_is_read_without_a_gpu_too() -> None:
    state = machine.state()
    assert state["ram_available_gib"] > 0
    assert ("gpus" in state) == bool(machine.gpu_names())
    assert len(machine.device_memory_mib()) == len(machine.gpu_names())


def test_doctor_says_what_to_do(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("ROLLBENCH_HOME", str(tmp_path / "not" / "there"))
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (99.0, 0, 0))
    found = {f.what: f for f in doctor.findings(tmp_path / "results")}
    assert "nox -s env-vllm" in found["vllm cannot run"].advice
    assert any(f.state == "warning" and "load average 99" in f.what for f in found.values())
    assert any("results go to" in what for what in found)


def cards() -> Any:
    """NVML with three GPUs, whose handles are their indices, and a MIG slice."""

    def by_uuid(name: str) -> int:
        if name != "MIG-dddd":
            raise NotSupported
        return 77

    return SimpleNamespace(
        **vars(driver()), nvmlDeviceGetCount=lambda: 3, nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetUUID=lambda card: UUIDS[card], nvmlDeviceGetHandleByUUID=by_uuid,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, [0, 1, 2]), ("", []), ("-1", []), ("none", []), ("2", [2]), ("2,0", [2, 0]), (" 1 , 2", [1, 2]),
        ("1,7,2", [1]), ("0,,1", [0]), ("GPU-cccc-3", [2]), ("GPU-cc,GPU-aaaa", [2, 0]), ("GPU-aa", []), ("GPU-x", []),
        ("1,GPU-x,0", [1]), ("MIG-dddd", [77]), ("MIG-eeee", []), ("aaaa", []),
    ],
)  # fmt: skip
def test_gpus_are_those_that_cuda_shows(monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[int]) -> None:
    """As the CUDA programming guide says of CUDA_VISIBLE_DEVICES: in its order, none from the first invalid one on."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.handles(cards()) == found


def test_cuda_counts_gpus_as_we_do() -> None:
    assert client.environment({}, ())["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_memory_and_series_are_of_the_cases_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def nvml() -> Iterator[Any]:
        yield cards()

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    for module in (machine, sampler):
        monkeypatch.setattr(module, "nvml", nvml)
    assert machine.device_memory_mib() == [3, 1]
    try:
        sampler.sample(tmp_path / "series", 0.01, os.getpid(), 0, gpus=1)  # its parent is another: two rows
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    window = Series.load(tmp_path / "series").window(0, float("inf"))
    assert (window.peak_used_mib, window.processes_max) == ([3], [2])


def test_a_launch_answers_for_its_own_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = [100, 5]
    monkeypatch.setattr(machine, "device_memory_mib", lambda: list(used))
    one, both = (
        Rig(envs.find("fake"), "tiny-qwen3", Options(), tmp_path / "log", 60, print, count) for count in (1, 0)
    )
    used[1] = 9000  # somebody else's
    assert (one.baseline_mib, one._left_mib()) == ([100], 0)
    assert (both.baseline_mib, both._left_mib()) == ([100, 5], 8995)

"""The contract of the engines' own ways of taking weights: `pytest tests/contract -m real --engine vllm` (or sglang).

What is there after one of them must be what the engine reads from a checkpoint of the same weights. A launch serves the
ways that need no other flags.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import CPU, GPU
from harness import envs, machine
from harness.errors import LaunchFailed
from harness.fresh import greedy
from harness.metrics import METRICS
from harness.ownlink import OwnLink
from harness.proof import gap, prove, tolerance
from harness.rig import Rig, log_path
from harness.worker import transports

GPUS = len(machine.gpu_names())
OPTIONS = replace(GPU, memory_fraction=0.4, max_running=64, graph_batch=64) if GPUS else replace(CPU, max_running=64)
ANYWHERE = ("vllm_reload", "sglang_tensor", "sglang_bucket", "sglang_disk")
WAYS = {0: (*ANYWHERE, "sglang_distributed"), 1: (*ANYWHERE, "vllm_ipc")}.get(GPUS, transports.OWN_WAYS)
APART = ("vllm_nccl", "sglang_distributed")  # on a GPU that the engine does not use
LONG = ("sglang_bucket", "sglang_distributed", "sglang_disk")  # each way has a launch of its own
BUCKET = 1 << 20  # bytes: several buckets even of a tiny model


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.config.getoption("--engine")
    mark = [pytest.mark.real, *([pytest.mark.skip("the fake holds no weights")] if name == "fake" else [])]
    if "way" in metafunc.fixturenames:
        mine = [way for way in WAYS if way.startswith(name)] or ["none"]
        marked = [pytest.param(way, marks=[*mark, *[pytest.mark.long] * (way in LONG)]) for way in mine]
        metafunc.parametrize("way", marked, scope="module")
    elif "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", [pytest.param(name, marks=mark)], scope="module")


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    for way in map(transports.load, WAYS):
        if hasattr(way, "BUCKET"):
            monkeypatch.setattr(way, "BUCKET", BUCKET)


@pytest.fixture(scope="module")
def launched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A launch with the flags that a way needs; one at a time."""
    engine, model = request.config.getoption("--engine"), request.config.getoption("--model")
    folder = Path(os.environ.get("OUT", tmp_path_factory.mktemp("own")))
    rigs: dict[str, Rig] = {}

    def launch(way: str) -> Rig:
        backend = way.removeprefix("vllm_") if way in ("vllm_ipc", "vllm_nccl") else ""
        if backend not in rigs or rigs[backend].worker.ended:
            end()
            native = {"vllm": {"weight_transfer_config": {"backend": backend}}} if backend else {}
            log = log_path(folder, f"{engine}-own-{way}", 0)
            rigs[backend] = Rig(envs.find(engine), model, replace(OPTIONS, native=native), log, 600, print)
        return rigs[backend]

    def end() -> None:
        while rigs:
            rigs.popitem()[1].close()

    yield launch
    end()


@contextmanager
def joined(rig: Rig, way: str, colocated: bool | None = None) -> Iterator[OwnLink]:
    """A sender on the engine's GPUs, or where the way wants it."""
    here = way not in APART if colocated is None else colocated
    with OwnLink(rig, way, "loader", colocated=here) as link:
        print(way, link.facts)
        yield link
        if not rig.worker.ended:
            assert link.end() == []


def test_it_brings_in_the_weights_of_the_sender(launched: Any, way: str) -> None:
    with joined(launched(way), way) as link:
        proofs = [prove(link, step) for step in (1, 2)]
        assert [proof.ok for proof in proofs] == [True, True], proofs
        link.update(1)
        times, parts = link.sync(), link.apart()
        print(way, times, parts, proofs[0].reason)
        assert sum(parts.values()) == pytest.approx(times["sync_latency"])
        assert all(seconds > 0 for seconds in parts.values())
        assert {"sync_load", "sync_fence", "sync_control"} <= parts.keys() <= METRICS.keys()
        old = greedy(link.rig)
        link.update(2)
        link.send()
        link.rig.flush()
        assert gap(old, greedy(link.rig)) <= tolerance(link)  # what was not taken is not there
        link.sync()
        assert gap(old, greedy(link.rig)) > tolerance(link)


def test_weights_that_were_not_taken_are_noticed(launched: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with joined(launched(way), way) as link:
        monkeypatch.setattr(link, "sync", link.rig.flush)
        assert prove(link, 3).ok is False


def test_what_an_engine_was_not_started_for_is_said(launched: Any, way: str) -> None:
    if way not in ("vllm_ipc", "vllm_nccl"):
        pytest.skip("it needs no flags")
    says = pytest.raises(LaunchFailed, match="needs an engine started for it, this one has none")
    with says, joined(launched("vllm_reload"), way):
        pass


@pytest.mark.skipif(GPUS == 0, reason="no GPU to share")
def test_nccl_on_one_gpu_is_refused(launched: Any, engine: str) -> None:
    way = next(way for way in APART if way.startswith(engine))
    with pytest.raises(LaunchFailed, match="different GPUs"), joined(launched(way), way, colocated=True):
        pass


def test_ways_of_a_gpu_say_so_without_one(launched: Any, engine: str) -> None:
    if GPUS or engine != "vllm":
        pytest.skip("there is a GPU, or the engine's ways all have a CPU's kind")
    for way, what in (("vllm_ipc", "CUDA IPC needs the weights on"), ("vllm_nccl", "NCCL needs the weights on a GPU")):
        with pytest.raises(LaunchFailed, match=what), joined(launched("vllm_reload"), way):
            pass


def test_nothing_stays_behind(launched: Any, engine: str) -> None:
    way = "vllm_reload" if engine == "vllm" else "sglang_tensor"
    with joined(launched(way), way) as link:
        link.sync()
    assert launched(way).shut_down().ok

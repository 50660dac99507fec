"""The contract of the engines' own ways of taking weights: `pytest tests/contract -m real --engine vllm` (or sglang).

What is there after one of them must be what is there after the same weights came through rollbench's receiver and the
engine's loader. A launch serves the ways that need no other flags.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import CPU, GPU
from harness import envs, machine, models
from harness.errors import LaunchFailed
from harness.fresh import greedy
from harness.link import Link
from harness.proof import gap, tolerance
from harness.rig import Rig, log_path
from harness.rollouts import Rollouts
from harness.worker import transports

GPUS = len(machine.gpu_names())
OPTIONS = replace(GPU, memory_fraction=0.4, max_running=64, graph_batch=64) if GPUS else replace(CPU, max_running=64)
ANYWHERE = ("vllm_reload", "sglang_tensor", "sglang_bucket", "sglang_disk")
WAYS = {0: (*ANYWHERE, "sglang_distributed"), 1: (*ANYWHERE, "vllm_ipc")}.get(GPUS, transports.OWN_WAYS)
APART = ("vllm_nccl", "sglang_distributed")  # on a GPU that the engine does not use
BUCKET = 1 << 20  # bytes: several buckets even of a tiny model


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.config.getoption("--engine")
    mark = [pytest.mark.real, *([pytest.mark.skip("the fake holds no weights")] if name == "fake" else [])]
    if "way" in metafunc.fixturenames:
        mine = [way for way in WAYS if way.startswith(name)] or ["none"]
        metafunc.parametrize("way", [pytest.param(way, marks=mark) for way in mine], scope="module")
    elif "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", [pytest.param(name, marks=mark)], scope="module")


class Sender:
    """A link whose sender of weights sends them by an engine's own way too."""

    def __init__(self, link: Link, way: str) -> None:
        self.link, self.rig, self.way = link, link.rig, way
        self.together = transports.load(way).TOGETHER
        folder = str(self.rig.log.parent if way.endswith(("disk", "reload")) else self.rig.worker.folder)
        (self.sender,) = link.senders
        model = models.find(self.rig.model).path
        self.address = self.sender.call("offer", 120, transport=way, folder=folder, model=model, bucket=BUCKET).value

    def __enter__(self) -> "Sender":
        print(self.way, self._engine("join"))
        return self

    def __exit__(self, *_: object) -> None:
        if not self.rig.worker.ended:
            self._engine("leave")

    def send(self) -> Any:
        return None if self.together else self.sender.call("send", 120, transport=self.way).value

    def sync(self) -> dict[str, float]:
        """Seconds of the engine's parts."""
        if not self.together:
            return self._engine("take", payload=self.send())
        self.sender.post("send", transport=self.way)
        parts = self._engine("take")
        self.sender.answer("send", 120)
        return parts

    def _engine(self, call: str, **args: Any) -> Any:
        worker = self.rig.worker
        return worker.call(call, 120, [self.sender], transport=self.way, address=self.address, **args).value


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
def joined(rig: Rig, way: str, colocated: bool | None = None) -> Iterator[Sender]:
    """A sender on the engine's GPUs, or where the way wants it."""
    here = way not in APART if colocated is None else colocated
    with Link(rig, "shm", "loader", colocated=here) as link:
        with Sender(link, way) as sender:
            yield sender
        assert link.end() == []


def reference(link: Link, step: int) -> Rollouts:
    """Outputs with the weights of a step, brought in by the engine's loader out of shared memory."""
    link.update(step)
    link.sync()
    return greedy(link.rig)


def test_it_brings_in_the_weights_of_the_sender(launched: Any, way: str) -> None:
    with joined(launched(way), way) as sender:
        link = sender.link
        wanted = {step: reference(link, step) for step in (1, 2)}
        assert gap(wanted[1], wanted[2]) > tolerance(link)
        for step in (1, 2, 1):
            link.update(step)
            parts = sender.sync()
            found = greedy(link.rig)
            print(way, step, parts, f"{gap(found, wanted[step]):.1e} apart")
            assert gap(found, wanted[step]) <= tolerance(link)
            assert not found.cached_B.any()
            assert parts["load"] > 0
        link.update(2)
        sender.send()
        link.rig.flush()
        untaken = greedy(link.rig)
        assert gap(untaken, wanted[2]) > tolerance(link)
        assert gap(untaken, wanted[1]) <= tolerance(link)


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
    with joined(launched(way), way) as sender:
        sender.sync()
    assert launched(way).shut_down().ok

"""The engines' own ways of taking weights, as far as no engine is needed."""

import asyncio
import importlib
import inspect
import os
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.scenario import Options
from harness.worker import transports
from harness.worker.__main__ import Calls
from harness.worker.engines import ENGINES
from harness.worker.engines.vllm import VLLM
from harness.worker.flat import layout
from harness.worker.transports import group, line, ray_stand_in, sglang_calls, vllm_calls
from harness.worker.transports.buckets import buckets
from harness.worker.transports.phases import Phases
from harness.worker.transports.shared import read, written

pytestmark = pytest.mark.timeout(60)
ADDRESS = {"port": 0, "senders": 2, "receivers": 1, "bucket": 1, "path": "", "stateful": True}


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@pytest.mark.parametrize("name", transports.OWN_WAYS)
def test_every_way_has_both_sides(name: str) -> None:
    way = transports.load(name)
    assert way.ENGINE in ENGINES
    assert name.startswith(way.ENGINE)
    assert isinstance(way.TOGETHER, bool)
    assert all(inspect.iscoroutinefunction(getattr(way, call)) for call in ("join", "take", "leave"))
    for call, names in (("offer", 4), ("send", 4)):
        assert len(inspect.signature(getattr(way, call)).parameters) == names


@pytest.mark.parametrize("name", ["vllm_reload", "sglang_disk", "sglang_tensor", "sglang_bucket"])
def test_shards_of_several_senders_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"one sender"):
        transports.load(name).send(None, [], None, ADDRESS)


@pytest.mark.parametrize("name", ["vllm_nccl", "sglang_distributed"])
def test_a_group_of_several_senders_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"one sender"):
        transports.load(name).meet(None, [], None, ADDRESS)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, [["a"], ["b"], ["c"], ["d"]]), (24, [["a"], ["b", "c"], ["d"]]), (1 << 20, [["a", "b", "c", "d"]])],
)
def test_buckets_keep_the_order_and_the_limit(size: int, expected: list[list[str]]) -> None:
    slots = layout([("a", [8]), ("b", [2]), ("c", [4]), ("d", [6])], 4)
    assert [[slot.name for slot in part] for part in buckets(slots, size)] == expected


def test_phases_add_up() -> None:
    phases = Phases()
    for name in ("load", "wait", "load"):
        with phases.timed(name):
            pass
    assert list(phases) == ["load", "wait"]
    first = phases["load"]
    with pytest.raises(KeyError), phases.timed("load"):
        raise KeyError
    assert phases["load"] > first > 0


def test_bytes_come_back_as_they_were_written() -> None:
    assert read(written(bytes(range(256)))) == bytes(range(256))


def test_a_group_meets_on_loopback_alone() -> None:
    with group.listening() as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with socket.socket() as other:
        other.bind((group.HOST, group.free_port()))


def test_a_group_that_does_not_meet_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "TIMEOUT", 0.05)
    with pytest.raises(RuntimeError, match=r"the engine did not join there within 0\.05 s"):
        group.met(Future(), "there")

    def fail() -> None:
        raise OSError("the port is taken")

    with pytest.raises(RuntimeError, match="no group with the engine over there: the port is taken"):
        group.met(group.meeting(fail), "there")
    with pytest.raises(RuntimeError, match=r"vLLM's workers did not join the sender's group within 0\.05 s"):
        run(group.within(asyncio.sleep(9), "vLLM's workers"))
    assert group.met(group.meeting(lambda: "a group"), "there") == "a group"


def test_one_gpu_for_both_sides_of_nccl_is_refused() -> None:
    with pytest.raises(RuntimeError, match="different GPUs, both are on GPU-1"):
        group.apart("GPU-1", ["GPU-0", "GPU-1"])
    group.apart("GPU-2", ["GPU-0", "GPU-1"])
    group.apart("", [])


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[line.Line, line.Line]]:
    listener = line.Listener(tmp_path / "line")
    engine = line.Line.connect(str(tmp_path / "line"))
    sender = listener.connected()
    assert listener.connected() is sender
    yield sender, engine
    listener.socket.close()


def test_messages_go_both_ways(ends: tuple[line.Line, line.Line]) -> None:
    sender, engine = ends
    large = "x" * (1 << 20)
    sent = threading.Thread(target=sender.send, args=({"bucket": large},))
    sent.start()
    assert run(engine.heard()) == {"bucket": large}
    sent.join()
    engine.send({"loaded": True})
    assert sender.receive() == {"loaded": True}


def test_a_line_whose_other_end_is_gone_says_so(ends: tuple[line.Line, line.Line]) -> None:
    sender, engine = ends
    engine.close()
    for use in (sender.receive, lambda: sender.send({})):
        with pytest.raises(RuntimeError, match="the other side of the weights' line is gone"):
            use()


def test_waits_on_a_line_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "TIMEOUT", 0.05)
    listener = line.Listener(tmp_path / "line")
    with pytest.raises(RuntimeError, match=r"did not join the sender's line within 0\.05 s"):
        listener.connected()
    engine = line.Line.connect(str(tmp_path / "line"))
    with pytest.raises(RuntimeError, match=r"nothing came over the weights' line within 0\.05 s"):
        engine.receive()


@pytest.fixture
def no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the module that may import ray of a source, in a process without ray."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(ray_stand_in, "ENGINE", "engine_of_a_test")
    monkeypatch.setenv("PYTHONPATH", "/there")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    if importlib.util.find_spec("ray"):
        pytest.skip("ray is here")

    def make(source: str) -> None:
        (tmp_path / "engine_of_a_test.py").write_text(source)
        importlib.invalidate_caches()

    return make


def test_ray_is_stood_in_for_where_it_is_imported(no_ray: Callable[[str], None]) -> None:
    no_ray("import os\nimport ray\n")
    ray_stand_in.install_where_missing()
    assert ray_stand_in.installed()
    assert os.environ["PYTHONPATH"] == f"/there{os.pathsep}{ray_stand_in.FOLDER}"
    with pytest.raises(ImportError):
        importlib.import_module("ray.util")
    assert not hasattr(importlib.import_module("ray"), "is_initialized")
    sys.modules.pop("ray", None)


def test_no_stand_in_where_ray_is_imported_when_used_or_not_at_all(no_ray: Callable[[str], None]) -> None:
    no_ray("def send():\n    import ray\n")
    ray_stand_in.install_where_missing()
    assert not ray_stand_in.installed()
    assert os.environ["PYTHONPATH"] == "/there"


class Adapter:
    """An engine's front that notes what is called."""

    def __init__(self, backend: str = "", answer: Any = True) -> None:
        config = SimpleNamespace(backend=backend) if backend else None
        self.config, self.answer = SimpleNamespace(weight_transfer_config=config), answer
        self.calls: list[tuple[Any, ...]] = []
        self.llm = SimpleNamespace()

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((name, *args, kwargs))
        return self.answer

    flushed = staticmethod(VLLM.flushed)


def test_an_update_of_vllm_has_its_calls_in_order() -> None:
    adapter = Adapter()
    phases = run(vllm_calls.update(adapter, {"names": ["a"]}))
    assert adapter.calls == [
        ("collective_rpc", "start_weight_update", {"kwargs": {}}),
        ("collective_rpc", "update_weights", {"kwargs": {"update_info": {"names": ["a"]}}}),
        ("collective_rpc", "finish_weight_update", {"kwargs": {}}),
        ("reset_prefix_cache", {}),
    ]
    assert list(phases) == ["start", "load", "finalise", "flush"]


def test_a_cache_that_vllm_keeps_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="did not reset its prefix cache"):
        run(vllm_calls.update(Adapter(answer=False), {}))


@pytest.mark.parametrize(("backend", "has"), [("", "none"), ("nccl", "nccl")])
def test_an_engine_of_another_backend_is_refused(backend: str, has: str) -> None:
    with pytest.raises(RuntimeError, match=f"has {has}: give Options.*'backend': 'ipc'"):
        vllm_calls.require(Adapter(backend), "ipc")
    vllm_calls.require(Adapter("ipc"), "ipc")


def test_only_a_vllm_that_can_is_told_to_shut_its_side_down() -> None:
    adapter = Adapter()
    run(vllm_calls.shut_down(adapter))
    assert not adapter.calls
    adapter.llm.shutdown_weight_transfer_engine = None
    run(vllm_calls.shut_down(adapter))
    assert adapter.calls == [("collective_rpc", "shutdown_weight_transfer_engine", {"kwargs": {}})]


def test_a_sync_ends_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[str]()

    async def take(engine: Any, address: Any, payload: Any) -> dict[str, float]:
        done.append(f"take {payload}")
        return {"load": 1.0}

    def weights(request: dict[str, Any], flush: bool) -> list[float]:
        done.append(request["do"])
        return [0.25, 0.5]  # seconds that each rank waited

    calls = Calls("fake")
    calls.engine.weights = weights  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(transports, "load", lambda name: SimpleNamespace(take=take))
    parts = calls.take("a way", {}, "handles")
    assert done == ["take handles", "fence"]
    assert parts["load"] == 1.5
    assert parts.keys() == {"load", "fence"}


def test_what_sglang_refuses_is_said_in_its_words() -> None:
    with pytest.raises(RuntimeError, match="SGLang refused update_weights_from_disk: no such folder"):
        run(sglang_calls.told(Adapter(answer=(False, "no such folder", 0)), "update_weights_from_disk", None))
    run(sglang_calls.told(Adapter(answer=(True, "done")), "update_weights_from_disk", None))


def test_handles_are_unpickled_only_by_an_engine_that_was_started_for_them() -> None:
    name = "VLLM_ALLOW_INSECURE_SERIALIZATION"
    plain = Options().of("vllm")
    assert name not in VLLM.environment(plain, "cuda")
    for backend, there in (("ipc", True), ("nccl", False)):
        native = {"weight_transfer_config": {"backend": backend}}
        assert (name in VLLM.environment(plain | {"native": native}, "cuda")) is there


@pytest.mark.parametrize("apart", [True, False])
def test_calls_reach_vllm_in_its_processes_and_in_this_one(apart: bool) -> None:
    class LLM:
        async def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
            return args, kwargs

    class InThisProcess:
        engine = SimpleNamespace(reset_prefix_cache=lambda *args, **kwargs: (args, kwargs))

        def do(self, work: Callable[[], Any]) -> "Future[Any]":
            done: Future[Any] = Future()
            threading.Thread(target=lambda: done.set_result(work())).start()
            return done

    vllm = VLLM()
    vllm.apart, vllm.llm = apart, LLM() if apart else InThisProcess()
    assert vllm.loop.run_until_complete(vllm.call("reset_prefix_cache", 1, two=2)) == ((1,), {"two": 2})
    assert vllm._ask(("reset_prefix_cache", 1), ("reset_prefix_cache", 2)) == [((1,), {}), ((2,), {})]
    vllm.loop.close()

"""A way past an engine's front: who answers, when, and what becomes of the engine's own requests meanwhile."""

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.wire import Wire
from harness.worker.receive import Receiver
from harness.worker.shortcut import Shortcut, listen_in_loop, listen_in_queue

Listen = Callable[[Any, str, Callable[[dict[str, Any]], dict[str, Any]]], None]


class Core:
    """As vLLM's: asleep at a queue until there is something."""

    def __init__(self) -> None:
        self.input_queue: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.seen = list[Any]()

    def _handle_client_request(self, kind: Any, request: Any) -> None:
        self.seen.append((kind, request))
        if callable(request):
            request()

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self._handle_client_request(*self.input_queue.get())

    def give(self, request: Any) -> None:
        self.input_queue.put(("add", request))


class Scheduler:
    """As SGLang's: it looks again and again."""

    def __init__(self) -> None:
        self.given, self.seen = queue.SimpleQueue[Any](), list[Any]()

    def process_input_requests(self, requests: list[Any]) -> None:
        self.seen += [("add", request) for request in requests]
        for request in requests:
            if callable(request):
                request()

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self.process_input_requests([self.given.get()] if not self.given.empty() else [])

    def give(self, request: Any) -> None:
        self.given.put(request)


@pytest.fixture(params=[(Core, listen_in_queue), (Scheduler, listen_in_loop)], ids=["vllm", "sglang"])
def engine(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Listen, Any]]:
    """An engine in a thread of its own, how it listens, and that thread."""
    monkeypatch.chdir(tmp_path)
    kind, listen = request.param
    made, ended = kind(), threading.Event()
    thread = threading.Thread(target=made.run, args=(ended,), daemon=True)
    thread.start()
    yield made, listen, thread
    ended.set()
    made.give("last")
    thread.join(5)


def seen(engine: Any, request: str) -> None:
    """Wait until the engine has come to it."""
    deadline = time.monotonic() + 5
    while engine.seen[-1][1] != request:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_requests_are_answered_between_the_engines_own(engine: tuple[Any, Listen, Any]) -> None:
    made, listen, _ = engine
    shortcut = Shortcut()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        return {"value": request["do"] * 2}

    def ask(request: dict[str, Any]) -> bool:
        listen(made, request["path"], answer)
        made.give("wake")  # it looks for what listens from its next turn on
        return True

    assert shortcut.use(wanted=True, ask=ask)
    assert shortcut.use(wanted=True, ask=ask)
    assert [shortcut.ask({"do": word}) for word in ("a", "b")] == [{"value": "aa"}, {"value": "bb"}]
    made.give("own")
    assert shortcut.ask({"do": "c"}) == {"value": "cc"}
    seen(made, "own")
    assert [request for _, request in made.seen if request != "wake"] == ["own"]
    assert not shortcut.use(wanted=False, ask=ask)


def test_an_engine_at_work_is_not_disturbed_and_begins_nothing_meanwhile(engine: tuple[Any, Listen, Any]) -> None:
    made, listen, _ = engine
    shortcut, order = Shortcut(), list[str]()
    begun, let, asked = threading.Event(), threading.Event(), threading.Event()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        order.append("ours begins")
        asked.set()
        time.sleep(0.05)
        order.append("ours ends")
        return request

    def busy() -> None:
        begun.set()
        let.wait(5)
        order.append("own")

    assert shortcut.use(wanted=True, ask=lambda request: listen(made, request["path"], answer) is None)
    made.give("wake")
    made.give(busy)
    begun.wait(5)
    waiting = threading.Thread(target=shortcut.ask, args=({"do": "a"},))
    waiting.start()
    assert not asked.wait(0.05)
    let.set()
    waiting.join(5)
    asked.clear()
    waiting = threading.Thread(target=shortcut.ask, args=({"do": "b"},))
    waiting.start()
    asked.wait(5)
    made.give(lambda: order.append("own"))
    waiting.join(5)
    made.give("last")
    seen(made, "last")
    ours = ["ours begins", "ours ends"]
    assert order == ["own", *ours, *ours, "own"]


def test_a_worker_that_is_gone_leaves_the_engine_running(engine: tuple[Any, Listen, Any]) -> None:
    made, listen, thread = engine
    shortcut = Shortcut()
    assert shortcut.use(wanted=True, ask=lambda request: listen(made, request["path"], dict) is None)
    made.give("wake")
    assert shortcut.ask({"do": "a"}) == {"do": "a"}
    assert shortcut.wire is not None
    shortcut.wire.close()
    made.give("own")
    made.give("more")
    seen(made, "more")
    assert thread.is_alive()
    assert [request for _, request in made.seen][-2:] == ["own", "more"]


def test_a_receiver_times_the_emptying_of_a_cache_where_it_can() -> None:
    emptied = list[int]()
    cached = Receiver(lambda: None, print, print, lambda: emptied.append(1))
    assert 0 <= cached.answer({"do": "flush"})["value"] < 1
    assert emptied == [1]
    assert Receiver(lambda: None, print, print).answer({"do": "flush"}) == {"value": None}


def test_an_engine_of_several_processes_is_asked_through_its_front() -> None:
    receiver = Receiver(lambda: None, lambda named: None, lambda path: None)
    shortcut = Shortcut()
    assert not shortcut.use(wanted=True, ask=lambda request: receiver.answer(request)["value"])
    assert not shortcut.used


def test_an_engine_that_is_gone_is_an_error() -> None:
    shortcut, (ours, theirs) = Shortcut(), socket.socketpair()
    end = ours.detach()
    shortcut.wire = Wire(end, end)
    theirs.close()
    with pytest.raises(RuntimeError, match="that holds the model is gone"):
        shortcut.ask({"do": "a"})
    shortcut.wire.close()

"""A way past an engine's front: requests go straight to the process that holds the whole model, which answers them
between two of its batches. Standard library only."""

import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.wire import Closed, Message, Wire

Answer = Callable[[Message], Message]


class Shortcut:
    """The worker's end. `used`: whether requests are to go this way."""

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.used = False

    def use(self, wanted: bool, ask: Callable[[Message], Any]) -> bool:
        """Go this way from now on, or no longer; whether that is so. The engine is asked to open it at the first use,
        which it does where one process holds the whole model and its scheduler."""
        if wanted and self.wire is None:
            path = Path.cwd() / "shortcut"  # the worker's folder is its own
            if ask({"do": "listen", "path": str(path)}):
                end = socket.socket(socket.AF_UNIX)
                end.connect(str(path))
                self.wire = _wire(end)
        self.used = wanted and self.wire is not None
        return self.used

    def ask(self, request: Message) -> Message:
        """The reply. Raises RuntimeError when the other side is gone."""
        assert self.wire is not None
        try:
            self.wire.send(request)
            return self.wire.receive()
        except Closed as error:
            raise RuntimeError("the engine's process that holds the model is gone") from error


def listen_in_queue(core: Any, path: str, answer: Answer) -> None:
    """vLLM's core sleeps at the queue of its requests. While it does ours are answered without waking it, and it leaves
    the queue only behind that; else they come in there too, of a kind of their own."""
    listener, handle, kind = _listener(path), core._handle_client_request, object()
    get, door, asleep = core.input_queue.get, threading.Lock(), False

    def sleep(block: bool = True, timeout: float | None = None) -> Any:
        nonlocal asleep
        asleep = block
        try:
            return get(block, timeout)
        finally:
            with door:
                asleep = False

    def dispatch(of: Any, request: Any) -> None:
        request() if of is kind else handle(of, request)

    def read() -> None:
        wire = _accept(listener)
        try:
            while True:
                message = wire.receive()
                with door:
                    if asleep:
                        wire.send(answer(message))
                        continue
                core.input_queue.put_nowait((kind, lambda message=message: wire.send(answer(message))))
        except Closed:
            return

    core._handle_client_request, core.input_queue.get = dispatch, sleep
    threading.Thread(target=read, daemon=True).start()


def listen_in_loop(scheduler: Any, path: str, answer: Answer) -> None:
    """SGLang's scheduler never sleeps: it looks for ours each time that it has looked for others, which takes a
    microsecond. A thread would wait for the interpreter's lock."""
    listener, process, poll = _listener(path), scheduler.process_input_requests, select.poll()
    poll.register(listener, select.POLLIN)
    joined = list[Wire]()

    def look(requests: Any) -> Any:
        done = process(requests)
        if poll.poll(0):
            if not joined:
                poll.unregister(listener)
                joined.append(_accept(listener))
                poll.register(joined[0].incoming, select.POLLIN)
            else:
                take(joined[0])
        return done

    def take(wire: Wire) -> None:
        try:
            wire.send(answer(wire.receive()))
        except Closed:
            poll.unregister(wire.incoming)

    scheduler.process_input_requests = look


def _listener(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    return listener


def _accept(listener: socket.socket) -> Wire:
    """The one that comes; nobody else is let in."""
    end, _ = listener.accept()
    listener.close()
    return _wire(end)


def _wire(end: socket.socket) -> Wire:
    descriptor = end.detach()
    return Wire(descriptor, descriptor)

"""The mock engine behind OpenAI's HTTP interface, on the loopback address: `python -m harness.worker.mock_server NAME
INCOMING OUTGOING`. It answers the first message with its address, and each later one with what has come since.

It speaks just enough HTTP for a benchmark's client, so that it stays far from being the slowest part.
"""

import asyncio
import importlib.util
import json
import os
import sys
import threading
import time
from typing import Any

from harness.wire import Closed, Wire
from harness.worker.__main__ import end_with_parent
from harness.worker.mock import beats

LOOPBACK = "127.0.0.1"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = {"id": "mock", "object": "text_completion", "model": "mock", "choices": [{"index": 0, "text": "a"}]}
MODELS = {"object": "list", "data": [{"id": "mock", "object": "model", "root": "mock", "owned_by": "mock"}]}


class Log:
    """What happened since it was last taken: when each named request arrived, and how late the mock's tokens were."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, float]] = []
        self.lags: list[float] = []

    def take(self) -> dict[str, Any]:
        arrived, lags, self.arrived, self.lags = self.arrived, self.lags, [], []
        return {"arrived": arrived, "lags": lags}


class Connection(asyncio.Protocol):
    """One client's connection; its requests come one behind the other."""

    def __init__(self, log: Log) -> None:
        self.log, self.unread = log, b""
        self.tasks: set[asyncio.Task[None]] = set()  # a running task needs a reference

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.unread += data
        while found := request(self.unread):
            path, name, body, self.unread = found
            if path != "/v1/completions":
                self.transport.write(plain(MODELS) if path == "/v1/models" else plain({}, "404 Not Found"))
                continue
            if name:  # a client's test requests have no name, and no place in its schedule
                self.log.arrived.append((name, now))
            task = asyncio.get_running_loop().create_task(self._stream(json.loads(body)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _stream(self, asked: dict[str, Any]) -> None:
        count, token, head = int(asked["max_tokens"]), chunk(event(TOKEN)), HEAD
        async for _ in beats(count, self.log.lags):
            self.transport.write(head + token)
            head = b""
        usage = {"prompt_tokens": len(asked["prompt"]), "completion_tokens": count}
        self.transport.write(chunk(event({"choices": [], "usage": usage})) + chunk(b"data: [DONE]\n\n") + chunk(b""))


def request(data: bytes) -> tuple[str, str, bytes, bytes] | None:
    """The first request in `data`: its path, the name that it gives itself, its body, and what stands behind it; None
    while it has not come whole."""
    head, separator, rest = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", 0))
    if len(rest) < length:
        return None
    return first.split()[1], headers.get("x-request-id", ""), rest[:length], rest[length:]


def event(message: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(message).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    """A piece of an answer of unknown length; the empty one ends it."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def plain(message: dict[str, Any], status: str = "200 OK") -> bytes:
    body = json.dumps(message).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def serve(wire: Wire) -> None:
    loop, log = asyncio.get_running_loop(), Log()
    server = await loop.create_server(lambda: Connection(log), LOOPBACK, 0, backlog=4096)
    wire.receive()
    wire.send({"url": f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"})
    ended = asyncio.Event()

    def answer() -> None:  # reads in a thread: the loop must not wait
        try:
            while True:
                wire.receive()
                loop.call_soon_threadsafe(lambda: wire.send(log.take()))
        except Closed:
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=answer, daemon=True).start()
    await ended.wait()


def main() -> None:
    incoming, outgoing = int(sys.argv[2]), int(sys.argv[3])
    for descriptor in (incoming, outgoing):
        os.set_inheritable(descriptor, False)
    end_with_parent(incoming)
    if importlib.util.find_spec("uvloop"):  # faster, where the environment has it
        importlib.import_module("uvloop").install()
    asyncio.run(serve(Wire(incoming, outgoing)))


if __name__ == "__main__":
    main()

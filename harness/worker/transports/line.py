"""A line between a sender and an engine's front process, for ways that take several messages a sync.

A Unix socket in the folder that both see, one JSON object a line (`harness.wire`).
"""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

from harness.wire import Closed, Wire
from harness.worker.transports.group import TIMEOUT


class Line:
    """One end. Every wait ends after TIMEOUT, and with the other side, in RuntimeError."""

    def __init__(self, connected: socket.socket) -> None:
        descriptor = connected.detach()
        self.wire = Wire(descriptor, descriptor)

    @classmethod
    def connect(cls, path: str) -> "Line":
        """The engine's end."""
        end = socket.socket(socket.AF_UNIX)
        end.connect(path)
        return cls(end)

    def send(self, message: dict[str, Any]) -> None:
        try:
            self.wire.send(message)
        except Closed:
            raise RuntimeError("the other side of the weights' line is gone") from None

    def receive(self) -> dict[str, Any]:
        try:
            return self.wire.receive(time.monotonic() + TIMEOUT)
        except TimeoutError:
            raise RuntimeError(f"nothing came over the weights' line within {TIMEOUT} s") from None
        except Closed:
            raise RuntimeError("the other side of the weights' line is gone") from None

    async def heard(self) -> dict[str, Any]:
        """`receive`, while the event loop goes on."""
        return await asyncio.to_thread(self.receive)

    def close(self) -> None:
        self.wire.close()


class Listener:
    """The sender's side, to which one engine connects."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(1)
        self.socket.settimeout(TIMEOUT)
        self.line: Line | None = None

    def connected(self) -> Line:
        """The line, once the engine has joined. Raises RuntimeError where it does not within TIMEOUT."""
        if self.line is None:
            try:
                self.line = Line(self.socket.accept()[0])
            except TimeoutError:
                raise RuntimeError(f"the engine did not join the sender's line within {TIMEOUT} s") from None
        return self.line

"""Messages between the light process and a worker: one JSON object a line, over pipes of their own.

Never standard output, because engines print there. Never pickle, because the two Pythons differ. Standard library
only: both sides import it.
"""

import json
import os
import select
import time
from typing import Any

Message = dict[str, Any]


class Closed(Exception):
    """The other side has closed its end."""


class Wire:
    """Two pipe ends, a message a line.

    `incoming` and `outgoing` are file descriptors that this object owns from now on.
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self._buffer = bytearray()

    def send(self, message: Message) -> None:
        """Write one message whole. Raises Closed when nobody reads any more."""
        view = memoryview(json.dumps(message, separators=(",", ":"), default=str).encode() + b"\n")
        try:
            while view:
                view = view[os.write(self.outgoing, view) :]
        except BrokenPipeError as error:
            raise Closed from error

    def receive(self, deadline: float | None = None, *watch: int) -> Message:
        """The next message. `deadline` is on `time.monotonic()`; `watch` are descriptors (pidfds) of which one's
        readiness means that no more will come.

        Raises TimeoutError at the deadline, and Closed when the pipe ends or one of `watch` becomes ready first.
        """
        poll = select.poll()
        for descriptor in (self.incoming, *watch):
            poll.register(descriptor, select.POLLIN)
        while (end := self._buffer.find(b"\n")) < 0:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = {descriptor for descriptor, _ in poll.poll(left)}
            if not ready:
                raise TimeoutError
            if self.incoming not in ready:
                raise Closed
            chunk = os.read(self.incoming, 1 << 16)
            if not chunk:
                raise Closed
            self._buffer += chunk
        line = self._buffer[:end]
        del self._buffer[: end + 1]
        message: Message = json.loads(line)
        return message

    @property
    def pending(self) -> bool:
        """Whether a whole message has been read already, which no poll would tell."""
        return b"\n" in self._buffer

    def close(self) -> None:
        for descriptor in {self.incoming, self.outgoing}:
            os.close(descriptor)

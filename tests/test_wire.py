"""Messages between two processes, as far as a pipe pair in one process can show it."""

import os
import time
from collections.abc import Iterator

import pytest

from harness.wire import Closed, Wire


@pytest.fixture
def ends() -> Iterator[tuple[Wire, Wire]]:
    there, back = os.pipe(), os.pipe()
    yield Wire(back[0], there[1]), Wire(there[0], back[1])


def test_messages_arrive_whole_and_in_order(ends: tuple[Wire, Wire]) -> None:
    near, far = ends
    messages = [{"call": "x", "args": {"text": "two\nlines ✓"}}, {"n": 1.5}, {"big": "x" * 10_000}]
    for message in messages:
        near.send(message)
    assert [far.receive() for _ in messages] == messages


def test_time_out_comes_at_the_deadline(ends: tuple[Wire, Wire]) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        ends[0].receive(start + 0.05)
    assert 0.04 < time.monotonic() - start < 1


def test_closed_pipe_is_noticed_when_reading_and_writing(ends: tuple[Wire, Wire]) -> None:
    near, far = ends
    far.close()
    with pytest.raises(Closed):
        near.receive()
    with pytest.raises(Closed):
        near.send({})


def test_watched_descriptor_ends_the_wait(ends: tuple[Wire, Wire]) -> None:
    readable, writable = os.pipe()
    os.write(writable, b"x")
    with pytest.raises(Closed):
        ends[0].receive(time.monotonic() + 5, readable)


def test_message_that_came_before_the_end_is_not_lost(ends: tuple[Wire, Wire]) -> None:
    near, far = ends
    far.send({"last": True})
    far.close()
    assert near.receive() == {"last": True}

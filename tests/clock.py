"""A clock for tests that nothing sleeps on: it jumps to the next moment anything is due."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class Clock:
    """What `time` is to the modules under test."""

    now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """What a call that blocks the event loop does."""
        self.now += seconds


class Sleepless(selectors.SelectSelector):
    """Where an event loop would sleep, the clock moves on."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "all wait, and nothing will ever wake them"
        self.clock.now += timeout
        return super().select(0)


def run(clock: Clock, work: Coroutine[Any, Any, Any]) -> Any:
    loop = asyncio.SelectorEventLoop(Sleepless(clock))
    loop.time = clock.perf_counter  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()

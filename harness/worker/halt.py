"""A sync while requests are in flight, as RL frameworks do it: no more requests go out, the engine pauses, the weights
come in, what the prefix cache holds of the old ones is forgotten, and all goes on."""

import asyncio
import contextlib
import time
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from harness.rollouts import Answer, Requests, Rollouts
from harness.worker.engines import MODES, Engine, Options, Sampling
from harness.worker.play import play

TURNS = 10  # of the loop, in which outputs that have arrived reach those who asked for them
GRACE = 1.0  # seconds for the last answers to arrive, and for the engine to be idle behind them
POLL = 0.01


@dataclass(eq=False)
class Flight:
    """A request that the engine has. `late`: it went there behind the sync."""

    late: bool
    tokens: int = 0  # that have come out
    old: int = 0  # of these, before the weights changed


class Halt:
    """The engine with one sync on its way: `answer` as the engine's own, `run` the sync.

    `mode` is one of `MODES`. The sync begins when `share` of `expected` tokens are out, or `seconds` after the start,
    whichever comes first; `request` brings the weights in.
    """

    def __init__(
        self, engine: Engine, expected: int, mode: str, share: float, seconds: float | None, request: Options
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"no pause {mode!r}: known are {', '.join(MODES)}")
        self.engine, self.mode, self.seconds, self.request = engine, mode, seconds, request
        self.left = share * expected  # tokens until it begins
        self.due, self.opened, self.quiet = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.opened.set()
        self.flights: set[Flight] = set()
        self.stamps: list[float] = []  # of every output, in their order
        self.begun = self.changed = False
        self.found: dict[str, Any] = {"mode": mode, "lost": 0, "aborted": 0, "late": 0, "late_cached": 0}

    def preemptions(self) -> int:
        return self.engine.preemptions()

    async def answer(self, ids: list[int], count: int, sampling: Sampling) -> Answer:
        """All of it, asked for again when the pause aborted it. What is done while the engine is paused is told when it
        goes on, so that the call lasts as long as the sync."""
        while True:
            await self.opened.wait()
            flight = Flight(late=self.changed)
            answer = await self._ask(flight, ids, count, sampling)
            if not (answer.aborted and self.begun):
                break
            self.found["aborted"] += 1
            self.found["lost"] += flight.tokens
        await self.opened.wait()
        self.found["late"] += flight.late
        self.found["late_cached"] += answer.cached * flight.late
        return answer

    async def _ask(self, flight: Flight, ids: list[int], count: int, sampling: Sampling) -> Answer:
        self.flights.add(flight)
        self.quiet.clear()
        try:
            answer = await self.engine.answer(ids, count, sampling, partial(self._came, flight))
            answer.old = flight.old if self.changed else len(answer.tokens)
            return answer
        finally:
            self.flights.remove(flight)
            if not self.flights:
                self.quiet.set()

    def _came(self, flight: Flight, tokens: int) -> None:
        if tokens > flight.tokens:
            self.stamps.append(time.perf_counter())
        self.left -= tokens - flight.tokens
        flight.tokens = tokens
        if self.left <= 0:
            self.due.set()

    async def run(self) -> None:
        """Wait for the moment, then sync."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                await self.due.wait()
        self.begun = True
        self.opened.clear()
        self.found["in_flight"] = len(self.flights)
        times = [time.perf_counter()]
        await self._pause()
        times.append(time.perf_counter())
        for flight in self.flights:
            flight.old = flight.tokens
        self.changed = True
        replies = await self.engine.take(self.request)
        times.append(time.perf_counter())
        # What is kept holds its part of the cache, and engines forget all or nothing.
        forgotten = self.mode != "keep" and await self.engine.forget(running=self.mode == "recompute")
        times.append(time.perf_counter())
        await self.engine.resume()
        times.append(time.perf_counter())
        self.opened.set()
        self.times, worker = times, max(reply["worker"] for reply in replies)
        pause, weights, forget, resume = (b - a for a, b in pairwise(times))
        self.found |= {
            "pause": pause, "worker": worker, "control": weights - worker, "forget": forget, "resume": resume,
            "forgotten": forgotten,
        }  # fmt: skip

    async def _pause(self) -> None:
        """Nothing runs behind it. A request that was still on its way may wait inside the engine."""
        await self.engine.pause(self.mode)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if self.mode in ("abort", "drain"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await self.quiet.wait()

    async def close(self) -> dict[str, Any]:
        """Behind the last answer: let go of what the old weights left in the cache, and say what happened, in seconds
        where it is a time. `gap`: the longest time without an output, from the last before the pause to the first
        behind the call to go on; `first`: from that call to that output, None where none came."""
        deadline = time.perf_counter() + GRACE
        while not (gone := self.found["forgotten"] or await self.engine.forget(running=False)):
            if time.perf_counter() > deadline:
                break
            await asyncio.sleep(POLL)
        begun, *_, go_on, end = self.times
        i, j = bisect_right(self.stamps, begun), bisect_right(self.stamps, go_on)
        behind = self.stamps[j : j + 1]
        edges = [*(self.stamps[i - 1 : i] or [begun]), *self.stamps[i:j], *(behind or [end])]
        gap = max(b - a for a, b in pairwise(edges))
        return self.found | {"gap": gap, "first": behind[0] - go_on if behind else None, "forgotten_at_last": gone}


async def play_halted(
    engine: Engine, requests: Requests, sampling: Sampling, concurrency: int, **how: Any
) -> tuple[Rollouts, dict[str, Any]]:
    """`play`, interrupted by a sync, and what the sync did (`how`: the arguments of `Halt` behind `expected`). Every
    token is reported, which is what tells the moment. Raises RuntimeError when all was done before the sync was due."""
    halt = Halt(engine, int(requests.output_B.sum()), **how)

    async def playing() -> Rollouts:
        out = await play(halt, requests, replace(sampling, stream=True), concurrency)
        if not halt.begun:
            raise RuntimeError("all requests were done before the interruption was due: let it come earlier")
        return out

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(halt.run())
            out = tasks.create_task(playing())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return out.result(), await halt.close()

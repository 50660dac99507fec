"""Send requests to an engine as their schedule says, and gather the answers: the load generator.

One asyncio task a conversation, in the engine's own process, as RL frameworks drive their engines. Latency counts from
when a request was due, not from when it went out, so that a stalled client or engine hides nothing.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence

from harness.rollouts import Answer, Requests, Rollouts, gather
from harness.worker.engines import Answers, Sampling


async def play(engine: Answers, requests: Requests, sampling: Sampling, concurrency: int = 0) -> Rollouts:
    """All requests, at most `concurrency` conversations at once (0: no limit). The first error ends the call."""
    new, counts, due = requests.new, requests.output_B.tolist(), requests.due_B.tolist()
    answers: list[Answer | None] = [None] * len(new)
    gate = asyncio.Semaphore(concurrency) if concurrency else contextlib.nullcontext()
    scheduled, made = bool(requests.due_B[[c[0] for c in requests.conversations]].any()), asyncio.Event()
    start = time.perf_counter()

    async def converse(places: Sequence[int]) -> None:
        await made.wait()
        await until(start + due[places[0]])
        async with gate:
            held: list[int] = []
            # Without a schedule, a conversation that waits for its place is due when it gets it.
            moment = time.perf_counter() if concurrency and not scheduled else start + due[places[0]]
            for place in places:
                if place != places[0]:
                    moment = time.perf_counter() + due[place]
                    await until(moment)
                held = held + new[place]
                sent = time.perf_counter()
                answer = answers[place] = await engine.answer(held, counts[place], sampling)
                answer.due, answer.sent = moment, sent
                held = held + answer.tokens

    before = engine.preemptions()
    try:
        async with asyncio.TaskGroup() as tasks:
            for places in requests.conversations:
                tasks.create_task(converse(places))
            if scheduled:  # thousands of tasks take tens of milliseconds to make, and the first are due by then
                start = time.perf_counter()
            made.set()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    seconds = time.perf_counter() - start
    found = [answer for answer in answers if answer is not None]
    return gather(found, start, seconds, engine.preemptions() - before)


async def until(moment: float) -> None:
    """Sleep until a moment on `time.perf_counter()`."""
    if (left := moment - time.perf_counter()) > 0:
        await asyncio.sleep(left)

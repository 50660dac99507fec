"""vLLM's engine in this process: requests come in together, errors reach who waits, work runs between steps."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.rollouts import Answer
from harness.worker.engines import Engine, Sampling
from harness.worker.engines.inprocess import InProcess
from harness.worker.play import play
from harness.workload import independent

pytestmark = pytest.mark.timeout(60)


class Broken(Exception):
    """What the engine below raises when it is told to."""


class Steps:
    """vLLM's engine as InProcess uses it: a request gets a token a step. It remembers what happened, and where."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.events: list[tuple[str, Any]] = []
        self.threads: set[int] = set()
        self.fail_in_step = 0  # the number of the step
        self.steps = 0
        self.gate = threading.Event()
        self.gate.set()
        self.paused, self.each = False, 0.0  # seconds that a step takes
        self.batch_queue: list[str] = []  # under way, with asynchronous scheduling
        self.scheduler = SimpleNamespace(has_requests=lambda: not self.paused and bool(self.left))
        self.engine_core = SimpleNamespace(engine_core=self)

    def pause_scheduler(self, mode: str, clear_cache: bool) -> None:
        assert (mode, clear_cache) == ("keep", False)
        self.paused = True

    def resume_scheduler(self) -> None:
        self.paused = False

    def abort_request(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            self.left.pop(request_id, None)

    def has_unfinished_requests(self) -> bool:
        return bool(self.left)

    def add_request(self, request_id: str, prompt: Any, sampling: Any, arrival_time: float, **options: Any) -> None:
        self.threads.add(threading.get_ident())
        if prompt == "bad":
            raise Broken("this prompt is too long")
        assert arrival_time <= time.time()
        self.left[request_id] = sampling
        self.events.append(("add", request_id))
        self.options = options

    def step(self) -> list[Any]:
        self.threads.add(threading.get_ident())
        self.steps += 1
        self.events.append(("step", sorted(self.left)))
        self.gate.wait(10)
        time.sleep(self.each)
        if self.steps == self.fail_in_step:
            raise Broken("in a step")
        if self.paused:
            self.events.append(("under way", self.batch_queue.pop()))
            return []
        outputs = []
        for request_id in list(self.left):
            self.left[request_id] -= 1
            finished = not self.left[request_id]
            outputs.append(SimpleNamespace(request_id=request_id, finished=finished, tokens=self.left[request_id]))
            if finished:
                del self.left[request_id]
        self.events.append(("stepped", len(outputs)))
        return outputs

    def batches(self) -> list[list[str]]:
        """The requests in each step."""
        return [what for name, what in self.events if name == "step"]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def tokens(outputs: AsyncIterator[Any]) -> Coroutine[Any, Any, list[int]]:
    async def collect() -> list[int]:
        return [output.tokens async for output in outputs]

    return collect()


def together(
    loop: asyncio.AbstractEventLoop, engine: InProcess, names: Sequence[str], count: int = 3, turns: int = 1
) -> list[Any]:
    """Conversations that begin in one moment; what each got, an error among it. Sending takes its time, in which the
    engine's thread may run."""

    async def talk(name: str) -> list[int]:
        for turn in range(turns):
            time.sleep(0.0005)
            found = await tokens(engine.generate("fine", count, name + "'" * turn))
        return found

    async def send() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*map(talk, names), return_exceptions=True), 20)

    return loop.run_until_complete(send())


def test_each_request_gets_its_outputs(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    assert together(loop, engine, ["a", "b"]) == [[2, 1, 0], [2, 1, 0]]
    assert engine.outputs == {}
    assert engine.engine.threads.isdisjoint({threading.get_ident()})
    assert len(engine.engine.threads) == 1


def test_a_request_takes_its_options_along(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    loop.run_until_complete(tokens(engine.generate("fine", 1, "a", lora_request="mine")))
    assert engine.engine.options == {"lora_request": "mine"}


def test_requests_of_one_moment_come_in_together_in_one_step(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    for turn in range(20):
        names = sorted(f"{turn}-{i}" for i in range(16))
        together(loop, engine, names, count=2)
        assert engine.engine.batches()[2 * turn :] == [names, names]


def test_later_turns_of_one_moment_come_in_together_too(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    together(loop, engine, "abcdefgh", count=1, turns=6)
    assert [len(names) for names in engine.engine.batches()] == [8] * 6


def test_play_gives_a_batch_to_one_step(loop: asyncio.AbstractEventLoop) -> None:
    inner = InProcess(Steps, loop)

    class Adapter:
        numbers = itertools.count()

        async def answer(self, ids: list[int], count: int, sampling: Sampling) -> Answer:
            async for _ in inner.generate("fine", count, str(next(self.numbers))):
                pass
            return Answer([1] * count, ids, len(ids), 0, first=time.perf_counter(), done=time.perf_counter())

        def preemptions(self) -> int:
            return 0

    loop.run_until_complete(play(cast(Engine, Adapter()), independent((1,), [9] * 32, [3] * 32, 99), Sampling()))
    assert [len(names) for names in inner.engine.batches()] == [32] * 3


def test_a_request_that_comes_later_joins_the_next_step(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)

    inner = engine.engine

    async def send() -> None:
        inner.gate.clear()
        long = asyncio.create_task(tokens(engine.generate("fine", 4, "long")))
        while not inner.steps:
            await asyncio.sleep(0)
        short = asyncio.create_task(tokens(engine.generate("fine", 2, "short")))
        await asyncio.sleep(0)  # it is sent while the first step runs
        inner.gate.set()
        await asyncio.wait_for(asyncio.gather(long, short), 20)

    loop.run_until_complete(send())
    assert inner.batches() == [["long"], ["long", "short"], ["long", "short"], ["long"]]


def test_an_error_in_making_the_engine_is_raised(loop: asyncio.AbstractEventLoop) -> None:
    def fail() -> None:
        raise Broken("no such model")

    with pytest.raises(Broken, match="no such model"):
        InProcess(fail, loop)


def test_an_error_in_a_step_reaches_all_who_wait(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    engine.engine.fail_in_step = 2
    found = together(loop, engine, ["a", "b"])
    assert [type(error) for error in found] == [Broken, Broken]
    assert str(found[0]) == "in a step"


def test_an_error_in_adding_a_request_reaches_its_sender(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    with pytest.raises(Broken, match="too long"):
        loop.run_until_complete(asyncio.wait_for(tokens(engine.generate("bad", 3, "a")), 20))
    assert together(loop, engine, ["b"]) == [[2, 1, 0]]  # the engine is well


def test_work_runs_between_steps_on_the_engines_thread(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    inner, done = engine.engine, list[Future[Any]]()

    def work() -> int:
        inner.events.append(("work", None))
        return threading.get_ident()

    async def send() -> None:
        inner.gate.clear()
        running = asyncio.create_task(tokens(engine.generate("fine", 5, "a")))
        while not inner.steps:
            await asyncio.sleep(0)
        done.append(engine.do(work))  # a step is running, and waits
        assert not done[0].done()
        inner.gate.set()
        await asyncio.wait_for(running, 20)

    loop.run_until_complete(send())
    assert {future.result(10) for future in done} == inner.threads
    names = [name for name, _ in inner.events]
    assert names == ["add", "step", "stepped", "work", *["step", "stepped"] * 4]


def test_work_runs_while_the_engine_is_idle_and_its_loop_stands(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    assert engine.do(lambda: 42).result(10) == 42
    together(loop, engine, ["a"])
    assert engine.do(engine.engine.has_unfinished_requests).result(10) is False


def test_an_error_in_work_is_its_callers(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)

    def fail() -> None:
        raise Broken("refused")

    with pytest.raises(Broken, match="refused"):
        engine.do(cast(Callable[[], Any], fail)).result(10)
    assert together(loop, engine, ["a"]) == [[2, 1, 0]]


def test_who_waits_no_more_is_no_trouble(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tokens(engine.generate("fine", 10**9, "a")), 0.02)

    loop.run_until_complete(give_up())
    assert engine.outputs == {}
    engine.do(engine.engine.left.clear).result(10)
    assert together(loop, engine, ["b"]) == [[2, 1, 0]]


def paused(loop: asyncio.AbstractEventLoop, engine: InProcess, mode: str) -> tuple[list[int], int, int]:
    """A request of 50 tokens, paused behind the third for 20 ms: what it got, the steps when it was paused and when it
    was to go on."""
    engine.engine.each = 0.002

    async def send() -> tuple[list[int], int, int]:
        running = asyncio.create_task(tokens(engine.generate("fine", 50, "a")))
        while engine.engine.steps < 3:
            await asyncio.sleep(0)
        await engine.pause(mode)
        before = engine.engine.steps
        await asyncio.sleep(0.02)
        after = engine.engine.steps
        await engine.resume()
        return await asyncio.wait_for(running, 20), before, after

    return loop.run_until_complete(send())


def test_what_is_kept_goes_on_behind_the_pause(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    found, before, after = paused(loop, engine, "keep")
    assert found == list(reversed(range(50)))
    assert 3 <= before == after < 50
    assert together(loop, engine, ["b"]) == [[2, 1, 0]]


def test_what_is_aborted_ends_unfinished(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    found, before, after = paused(loop, engine, "abort")
    assert len(found) == before == after < 50
    assert engine.outputs == engine.engine.left == {}
    assert together(loop, engine, ["b"]) == [[2, 1, 0]]


def test_a_pause_may_wait_for_what_runs(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    assert paused(loop, engine, "wait") == (list(reversed(range(50))), 50, 50)


def test_batches_under_way_end_before_the_pause_does(loop: asyncio.AbstractEventLoop) -> None:
    engine = InProcess(Steps, loop)
    engine.engine.batch_queue += ["one", "two"]
    paused(loop, engine, "keep")
    assert engine.engine.batch_queue == []
    assert [what for name, what in engine.engine.events if name == "under way"] == ["two", "one"]

"""A sync in the middle of a call, on a clock that jumps: what becomes of the requests in flight, and what is told."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harness.rollouts import Answer, Requests, Rollouts
from harness.scenario import Options
from harness.worker import halt as halt_module
from harness.worker import play as play_module
from harness.worker.engines import MODES, Report, Sampling
from harness.worker.engines import fake as fake_module
from harness.worker.engines.fake import Fake
from harness.worker.halt import play_halted
from harness.worker.play import play
from harness.workload import conversations, independent
from tests.clock import Clock, run

pytestmark = pytest.mark.timeout(60)

EACH, SYNC = 0.01, 0.2  # seconds: a token, the sync
Found = dict[str, Any]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for changed in (halt_module, play_module, fake_module):
        monkeypatch.setattr(changed, "time", clock)
    return clock


def fake(**native: Any) -> Fake:
    engine = Fake()
    options = Options(native={"fake": {"seconds_per_token": EACH, "seconds_per_sync": SYNC, **native}})
    engine.start("", "", options.of("fake"), "cpu")
    return engine


def batch(count: int = 4, tokens: int = 10) -> Requests:
    return independent((1,), [40] * count, [tokens] * count, 1000)


def halted(
    clock: Clock, engine: Fake, requests: Requests, mode: str, concurrency: int = 0, **changes: Any
) -> tuple[Rollouts, Found]:
    how = {"mode": mode, "share": 0.5, "seconds": None, "request": {"do": "sync"}} | changes
    found: tuple[Rollouts, Found] = run(
        clock, play_halted(engine, requests, Sampling(temperature=0.0), concurrency, **how)
    )
    return found


def tokens(clock: Clock, requests: Requests, version: int) -> Any:
    """What the fake generates with the weights of that version all the way."""
    engine = fake()
    engine.version = version
    return run(clock, play(engine, requests, Sampling())).tokens_BT


@pytest.mark.parametrize("mode", ["keep", "recompute"])
def test_what_is_kept_goes_on_with_the_new_weights(clock: Clock, mode: str) -> None:
    requests = batch()
    out, found = halted(clock, fake(), requests, mode)
    old, new = (tokens(clock, requests, version) for version in (0, 1))
    assert out.old_B.tolist() == [5] * 4
    np.testing.assert_array_equal(out.tokens_BT[:, :5], old[:, :5])
    np.testing.assert_array_equal(out.tokens_BT[:, 5:], new[:, 5:])
    assert (found["in_flight"], found["aborted"], found["lost"], found["late"]) == (4, 0, 0, 0)
    assert found["worker"] == pytest.approx(SYNC)
    assert found["gap"] == pytest.approx(SYNC)  # the token that was on its way waits in the engine
    assert float(out.seconds) == pytest.approx(10 * EACH + SYNC - EACH)
    assert found["forgotten"] is (mode == "recompute")
    assert found["forgotten_at_last"]


def test_what_is_aborted_begins_again(clock: Clock) -> None:
    requests, engine = batch(), fake()
    out, found = halted(clock, engine, requests, "abort")
    np.testing.assert_array_equal(out.tokens_BT, tokens(clock, requests, 1))
    assert out.old_B.tolist() == [0] * 4
    assert (found["in_flight"], found["aborted"], found["lost"], found["late"]) == (4, 4, 20, 4)
    assert found["late_cached"] == 0
    assert out.cached_B.tolist() == [0] * 4  # its own first try left nothing
    assert found["pause"] == pytest.approx(EACH)  # the fake sees it with the next token
    assert found["first"] == pytest.approx(EACH)
    assert found["gap"] == pytest.approx(EACH + SYNC + EACH)
    assert float(out.seconds) == pytest.approx(5 * EACH + EACH + SYNC + 10 * EACH)
    assert engine.answers == 8


def test_what_is_drained_is_done_before_the_weights_come(clock: Clock) -> None:
    requests = batch()
    out, found = halted(clock, fake(), requests, "drain")
    np.testing.assert_array_equal(out.tokens_BT, tokens(clock, requests, 0))
    assert out.old_B.tolist() == [10] * 4
    assert (found["in_flight"], found["aborted"], found["lost"]) == (4, 0, 0)
    assert found["pause"] == pytest.approx(5 * EACH)
    assert found["first"] is None
    assert found["gap"] == pytest.approx(SYNC)
    assert float(out.seconds) == pytest.approx(10 * EACH + SYNC)  # the call lasts as long as the sync
    assert out.done_B == pytest.approx([10 * EACH] * 4)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_goes_out_while_the_engine_is_paused(clock: Clock, mode: str) -> None:
    """Two at once: the third and the fourth go out behind the sync."""
    requests, engine, during = batch(), fake(), list[int]()
    take, ask = engine.take, engine.answer
    taking = False

    async def watched(request: Found) -> list[Any]:
        nonlocal taking
        taking = True
        replies = await take(request)
        taking = False
        return replies

    async def counted(ids: list[int], count: int, sampling: Sampling, report: Report) -> Answer:
        during.append(taking)
        return await ask(ids, count, sampling, report)

    engine.take, engine.answer = watched, counted  # type: ignore[method-assign, assignment]
    out, found = halted(clock, engine, requests, mode, concurrency=2, share=0.25)
    new = tokens(clock, requests, 1)
    assert not any(during)
    assert found["in_flight"] == 2
    assert found["late"] == (4 if mode == "abort" else 2)
    assert out.output_B.tolist() == [10] * 4
    assert out.old_B[2:].tolist() == [0, 0]
    np.testing.assert_array_equal(out.tokens_BT[2:], new[2:])


@pytest.mark.parametrize("mode", MODES)
def test_conversations_hold_their_answers_of_both_weights(clock: Clock, mode: str) -> None:
    requests = conversations((1,), 3, 3, 32, 8, 10, 0.02, 1000)
    out, found = halted(clock, fake(), requests, mode)
    assert out.output_B.tolist() == [10] * 9
    assert out.prompt_B.tolist() == [len(prompt) for prompt in requests.prompts(out.tokens_BT)]
    assert 0 < out.old_B.sum() < 90
    assert found["in_flight"] > 0


def test_a_cache_that_the_engine_keeps_is_told(clock: Clock) -> None:
    engine = fake(refuses_recompute=True)
    _, found = halted(clock, engine, batch(), "recompute")
    assert found["forgotten"] is False
    assert found["forgotten_at_last"] is True
    assert engine.cache == set()


def test_later_requests_that_take_from_the_old_cache_are_counted(clock: Clock) -> None:
    """The second turn begins behind the sync, on the prompt that the old weights computed."""
    talk = conversations((1,), 1, 2, 32, 8, 10, 0.0, 1000)
    _, kept = halted(clock, fake(), talk, "keep", share=0.25)
    assert (kept["late"], kept["late_cached"]) == (1, 32)
    _, drained = halted(clock, fake(), talk, "drain", share=0.25)
    assert (drained["late"], drained["late_cached"]) == (1, 0)


def test_it_may_come_at_a_time(clock: Clock) -> None:
    out, _ = halted(clock, fake(), batch(), "keep", seconds=0.035)
    assert out.old_B.tolist() == [3] * 4
    early, _ = halted(clock, fake(), batch(), "keep", seconds=0.085)
    assert early.old_B.tolist() == [5] * 4  # the share came first


def test_a_sync_that_would_come_too_late_is_an_error(clock: Clock) -> None:
    with pytest.raises(RuntimeError, match="before the interruption was due"):
        halted(clock, fake(), batch(), "keep", share=1.1)
    with pytest.raises(RuntimeError, match="before the interruption was due"):
        halted(clock, fake(), batch(), "keep", share=1.1, seconds=1.0)


def test_an_error_in_the_sync_ends_the_call_as_it_is(clock: Clock) -> None:
    with pytest.raises(NotImplementedError, match="holds no weights"):
        halted(clock, fake(), batch(), "keep", request={"do": "memory"})


def test_an_error_in_a_request_ends_the_sync(clock: Clock) -> None:
    engine = fake()

    async def broken(*_: Any) -> Answer:
        await asyncio.sleep(EACH)
        raise ValueError("out of memory")

    engine.answer = broken  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="out of memory"):
        halted(clock, engine, batch(), "abort")


def test_a_pause_that_is_none_is_refused(clock: Clock) -> None:
    with pytest.raises(ValueError, match="no pause 'freeze': known are abort, drain, keep, recompute"):
        halted(clock, fake(), batch(), "freeze")


def test_what_the_engine_aborts_unasked_is_not_hidden(clock: Clock) -> None:
    """Before the sync; behind it all else is as asked."""
    engine = fake()
    ask: Callable[..., Any] = engine.answer

    async def answer(ids: list[int], count: int, sampling: Sampling, report: Report) -> Answer:
        if engine.answers == 0:
            engine.answers = 1
            return Answer([], ids, len(ids), 0, first=clock.now, done=clock.now, aborted=True)
        found: Answer = await ask(ids, count, sampling, report)
        return found

    engine.answer = answer  # type: ignore[method-assign, assignment]
    out, found = halted(clock, engine, batch(), "keep")
    assert out.output_B.tolist() == [0, 10, 10, 10]
    assert found["aborted"] == 0


def test_an_engine_that_never_gets_idle_does_not_hold_the_call(clock: Clock) -> None:
    engine = fake()

    async def refused(running: bool) -> bool:
        return False

    engine.forget = refused  # type: ignore[method-assign]
    _, found = halted(clock, engine, batch(), "drain")
    assert found["forgotten"] is found["forgotten_at_last"] is False

"""The load generator, on a clock that jumps to the next moment anything is due."""

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from harness import audit
from harness.audit import Audit
from harness.rollouts import Answer, Requests, Rollouts, ids_hash
from harness.scenario import Options
from harness.worker import play as module
from harness.worker.engines import Engine, Sampling
from harness.worker.engines import fake as fake_module
from harness.worker.engines.fake import Fake
from harness.worker.play import play
from harness.workload import arriving, conversations, grouped, independent, reusable
from tests.clock import Clock, run

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for changed in (module, fake_module):
        monkeypatch.setattr(changed, "time", clock)
    return clock


@dataclass
class Tiny:
    """An engine that takes `first` seconds to a first token, then `each` for each; it answers with rising numbers and
    remembers what happened in which order."""

    clock: Clock
    first: float = 0.1
    each: float = 0.1
    fails: dict[int, BaseException] = field(default_factory=dict)  # place in the order of arrival: with what
    prompts: list[list[int]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    running: int = 0
    most: int = 0  # that ever ran at once
    lost: int = 0
    cancelled: int = 0

    async def answer(self, ids: list[int], count: int, sampling: Sampling) -> Answer:
        place = len(self.prompts)
        self.prompts.append(list(ids))
        self.events.append("in")
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.first)
            if place in self.fails:
                raise self.fails[place]
            first = self.clock.now
            await asyncio.sleep(self.each * (count - 1))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        self.events.append("out")
        tokens = list(range(100 * place, 100 * place + count))
        return Answer(tokens, ids, len(ids), 0, first=first, done=self.clock.now)

    def preemptions(self) -> int:
        self.lost += 3
        return self.lost


def played(engine: Any, requests: Requests, concurrency: int = 0, **sampling: Any) -> Rollouts:
    clock = engine.clock
    out = run(clock, play(cast(Engine, engine), requests, Sampling(**sampling), concurrency))
    assert isinstance(out, Rollouts)
    return out


def fake(clock: Clock, **native: Any) -> Any:
    engine = Fake()
    engine.loop.close()
    engine.start("", "", Options(native={"fake": native}).of("fake"), "cpu")
    engine.clock = clock  # type: ignore[attr-defined]
    return engine


def batch(count: int = 6, tokens: int = 3) -> Requests:
    return independent((1,), [40] * count, [tokens] * count, 2000)


def talks(count: int = 3, turns: int = 3, pause: float = 0.0) -> Requests:
    return conversations((1,), count, turns, 32, 16, 3, pause, 2000)


def test_prompts_hold_the_answers_before_them(clock: Clock) -> None:
    requests, engine = talks(), Tiny(clock)
    out = played(engine, requests)
    whole = [prompt.tolist() for prompt in requests.prompts(out.tokens_BT)]
    assert sorted(engine.prompts) == sorted(whole)
    for places in requests.conversations:
        for before, place in itertools.pairwise(places):
            answer = out.tokens_BT[before, :3].tolist()
            assert whole[place] == whole[before] + answer + requests.new[place]
    assert out.prompt_B.tolist() == requests.prompt_B.tolist() == [48, 67, 86] * 3
    assert str(out.prompts_sha256) == ids_hash(whole)


def test_answers_stand_in_the_order_of_the_requests(clock: Clock) -> None:
    """Whatever order they end in."""
    requests = independent((1,), [5] * 4, [9, 1, 7, 3], 2000)
    out = played(Tiny(clock), requests)
    assert out.output_B.tolist() == [9, 1, 7, 3]
    assert out.tokens_BT[:, 0].tolist() == [0, 100, 200, 300]
    assert np.argsort(out.done_B).tolist() == [1, 3, 2, 0]


def test_turns_of_conversations_that_stand_between_each_other(clock: Clock) -> None:
    asked = (np.array(v, np.int32) for v in ([1, 2, 3, 4], [1] * 4, [2] * 4, [8, 5, 8, 5]))
    engine = Tiny(clock)
    out = played(engine, Requests(*asked, np.zeros(4)))
    assert engine.prompts == [[1], [2], [1, 0, 1, 3], [2, 100, 101, 4]]
    assert out.prompt_B.tolist() == [1, 1, 4, 4]


def test_times_count_from_the_start_of_the_call(clock: Clock) -> None:
    out = played(Tiny(clock, first=0.5, each=0.25), batch(tokens=5))
    assert out.sent_B == pytest.approx([0.0] * 6)
    assert out.due_B == pytest.approx([0.0] * 6)
    assert out.first_B == pytest.approx([0.5] * 6)
    assert out.done_B == pytest.approx([1.5] * 6)
    assert float(out.seconds) == pytest.approx(1.5)
    assert int(out.preemptions) == 3  # the difference between two looks at the engine's counter


def test_arrivals_are_sent_on_time(clock: Clock) -> None:
    requests = arriving(batch(), 8.0, "poisson", (1,))
    out = played(Tiny(clock), requests)
    assert out.due_B == pytest.approx(requests.due_B)
    assert out.sent_B == pytest.approx(requests.due_B)
    assert audit.latency(out) == pytest.approx([0.3] * 6)


def test_pauses_are_kept(clock: Clock) -> None:
    requests = talks(pause=0.5)
    out = played(Tiny(clock), requests)
    for places in requests.conversations:
        for before, place in itertools.pairwise(places):
            assert out.due_B[place] == pytest.approx(out.done_B[before] + requests.due_B[place])
    assert out.sent_B == pytest.approx(out.due_B)
    assert audit.latency(out) == pytest.approx([0.3] * 9)  # a pause is nobody's latency
    ends = [0.9 + requests.due_B[places].sum() for places in requests.conversations]
    assert audit.figures(requests, out)["conversation_time"] == pytest.approx(np.median(ends))


def test_requests_of_one_moment_all_reach_the_engine_before_the_first_answer(clock: Clock) -> None:
    engine = Tiny(clock, first=0.0, each=0.0)
    played(engine, batch(50))
    assert engine.events == ["in"] * 50 + ["out"] * 50


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_no_more_conversations_run_at_once_than_allowed(clock: Clock, limit: int) -> None:
    requests, engine = talks(count=7, turns=2, pause=0.05), Tiny(clock)
    out = played(engine, requests, limit)
    assert engine.most <= limit
    assert len(engine.prompts) == 14
    open_at = [(out.sent_B[p[0]], out.done_B[p[-1]]) for p in requests.conversations]
    for begun, _ in open_at:  # a conversation keeps its place through its pauses
        assert sum(a <= begun < b - 1e-6 for a, b in open_at) <= limit
    assert out.output_B.tolist() == [3] * 14


def test_a_limit_is_made_use_of(clock: Clock) -> None:
    engine = Tiny(clock)
    out = played(engine, batch(8), 4)
    assert engine.most == 4
    assert float(out.seconds) == pytest.approx(2 * 0.3)
    assert float(played(Tiny(clock), batch(8)).seconds) == pytest.approx(0.3)
    assert float(played(Tiny(clock), batch(8), 100).seconds) == pytest.approx(0.3)


def test_a_conversation_that_waits_for_its_turn_is_due_when_it_gets_it(clock: Clock) -> None:
    out = played(Tiny(clock), batch(6), 2)
    assert out.due_B == pytest.approx([0.0, 0.0, 0.3, 0.3, 0.6, 0.6])
    assert out.sent_B == pytest.approx(out.due_B)
    assert audit.latency(out) == pytest.approx([0.3] * 6)


def test_the_first_error_ends_the_call_as_it_is(clock: Clock) -> None:
    engine = Tiny(clock, fails={2: RuntimeError("out of memory"), 4: ValueError("a later one")})
    with pytest.raises(RuntimeError, match="out of memory") as raised:
        played(engine, batch())
    assert raised.value is engine.fails[2]
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    assert engine.running == 0


def test_an_error_ends_the_others_at_once(clock: Clock) -> None:
    engine = Tiny(clock, each=100.0, fails={5: RuntimeError("gone")})
    begun = clock.now
    with pytest.raises(RuntimeError, match="gone"):
        played(engine, batch())
    assert clock.now == pytest.approx(begun + 0.1)
    assert engine.cancelled == 5


def test_an_error_in_a_later_turn_ends_the_call_too(clock: Clock) -> None:
    engine = Tiny(clock, fails={7: RuntimeError("in the third turn")})
    with pytest.raises(RuntimeError, match="third turn"):
        played(engine, talks(), 3)


def test_after_an_error_no_request_goes_out(clock: Clock) -> None:
    engine = Tiny(clock, fails={0: RuntimeError("gone")})
    with pytest.raises(RuntimeError, match="gone"):
        played(engine, arriving(batch(), 5.0, "fixed", (1,)))
    assert len(engine.prompts) == 1


def test_the_fake_plays_conversations_as_asked(clock: Clock) -> None:
    requests, found = talks(pause=0.2), Audit()
    out = played(fake(clock, seconds_per_token=0.01), requests, temperature=0.0)
    found.add(requests, out, 0.5)
    assert {name: c.ok for name, c in found.certificates().items()} == dict.fromkeys(found.certificates(), True)
    assert 0 < out.cached_B.sum() <= reusable(requests).sum()


def test_the_fake_streams_a_gap_a_token(clock: Clock) -> None:
    engine = fake(clock, seconds_per_token=0.01)
    out = played(engine, batch(4, tokens=6), stream=True)
    assert out.gaps_N == pytest.approx([0.01] * 20)
    assert out.first_B == pytest.approx([0.01] * 4)
    assert out.done_B == pytest.approx([0.06] * 4)
    assert played(engine, batch(4, tokens=6)).gaps_N.size == 0
    assert played(engine, batch(4, tokens=1), stream=True).gaps_N.size == 0


def test_the_fake_groups_answer_the_same_prompt(clock: Clock) -> None:
    requests = grouped(batch(2), 3)
    out = played(fake(clock), requests)
    assert out.cached_B.tolist() == [0, 32, 32] * 2  # whole blocks of 16, never the last token
    assert (out.tokens_BT[0] == out.tokens_BT[2]).all()


def test_a_stalled_client_is_seen_and_hides_nothing(clock: Clock) -> None:
    """Each request blocks the event loop for 0.2 s where 10 a second are due: all that come too late say so."""
    requests, found = arriving(batch(10), 10.0, "fixed", (1,)), Audit()
    out = played(fake(clock, block=0.2, seconds_per_token=0.01), requests)
    assert out.due_B == pytest.approx(requests.due_B)
    assert (out.sent_B - out.due_B)[-1] == pytest.approx(0.9)  # sent after nine others of 0.2 s, due after 0.9 s
    assert audit.ttft(out).max() > 1.0
    found.add(requests, out, 0.0)
    assert found.certificates()["client"].ok is False


def test_a_client_too_slow_for_a_batch_is_told(clock: Clock) -> None:
    found = Audit()
    out = played(fake(clock, block=0.1, seconds_per_token=0.01), batch(10))
    found.add(batch(10), out, 0.0)
    assert out.sent_B[-1] == pytest.approx(0.9)
    assert out.due_B == pytest.approx([0.0] * 10)
    assert found.certificates()["client"].figure == pytest.approx(0.9 / float(out.seconds), abs=1e-4)


def test_on_a_real_clock_nothing_goes_out_before_its_time() -> None:
    engine, requests = Fake(), arriving(talks(count=5, turns=2, pause=0.01), 100.0, "poisson", (1,))
    engine.start("", "", Options(native={"fake": {"seconds_per_token": 0.001}}).of("fake"), "cpu")
    begun = time.perf_counter()
    out = engine.loop.run_until_complete(play(engine, requests, Sampling()))
    engine.loop.close()
    assert (out.sent_B >= out.due_B - 1e-3).all()
    assert out.due_B[::2] == pytest.approx(requests.due_B[::2], abs=1e-6)
    assert (out.due_B[1::2] >= out.done_B[::2] + requests.due_B[1::2] - 1e-3).all()
    assert out.done_B.max() <= float(out.seconds) <= time.perf_counter() - begun

"""What was asked held against what came: each certificate both ways, and figures by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness import audit, stats
from harness.audit import Audit
from harness.metrics import METRICS, PERCENTILES
from harness.rollouts import Answer, Requests, Rollouts, gather, ids_hash, padded
from harness.workload import arriving, conversations, grouped, independent, reusable

Changes = dict[str, Any]


def batch(count: int = 4, tokens: int = 5) -> Requests:
    """Prompts of 300 tokens that share nothing."""
    return independent((1,), [300] * count, [tokens] * count, 5000)


def talks(pause: float = 0.0) -> Requests:
    """Two conversations of two turns behind 200 tokens of a system prompt: prompts of 300 and 405."""
    return conversations((1,), 2, 2, 200, 100, 5, pause, 5000)


def played(requests: Requests, **changes: Any) -> Rollouts:
    """Rollouts with nothing wrong: sent when due, 0.1 s to the first token, 1 s to the last, 2 s in all."""
    rows = padded([[7] * count for count in requests.output_B.tolist()])
    due = np.zeros(len(requests.output_B))
    for places in requests.conversations:
        due[places] = np.cumsum(requests.due_B[places]) + np.arange(len(places))
    out = Rollouts(
        tokens_BT=rows,
        logprobs_BT=np.empty((len(rows), 0), np.float32),
        prompt_B=requests.prompt_B.astype(np.int32),
        cached_B=np.zeros(len(rows), np.int32),
        queued_B=np.full(len(rows), np.nan),
        due_B=due,
        sent_B=due,
        first_B=due + 0.1,
        done_B=due + 1.0,
        gaps_N=np.empty(0),
        preemptions=np.array(0),
        seconds=np.array(float(due.max()) + 2.0),
        prompts_sha256=np.array(ids_hash(requests.prompts(rows))),
    )
    return replace(out, **changes)


def audited(requests: Requests, out: Rollouts, floor: float = 0.0, caching: bool = True) -> Audit:
    found = Audit(caching)
    found.add(requests, out, floor)
    return found


def red(found: Audit) -> list[str]:
    return [name for name, certificate in found.certificates().items() if certificate.ok is False]


def changed(values: np.ndarray, place: int, by: float = 1) -> np.ndarray:
    """A copy in which one value differs."""
    copy = values.copy()
    copy[place] += by
    return copy


@pytest.mark.parametrize("requests", [batch(), talks(), talks(0.5), arriving(batch(), 9.0, "fixed", (1,))])
def test_a_call_as_it_was_asked_is_green(requests: Requests) -> None:
    found = audited(requests, played(requests)).certificates()
    assert {name: certificate.ok for name, certificate in found.items()} == dict.fromkeys(
        ("workload", "counts", "cache", "client"), True
    )


def test_nothing_generated_leaves_the_client_without_a_verdict() -> None:
    found = Audit().certificates()
    assert found["client"].ok is None
    assert found["client"].reason == "nothing was generated"
    assert red(Audit()) == []


@pytest.mark.parametrize("requests", [batch(), talks()])
def test_a_prompt_counted_otherwise_is_seen(requests: Requests) -> None:
    out = played(requests)
    found = audited(requests, replace(out, prompt_B=changed(out.prompt_B, -1)))
    assert red(found) == ["workload"]
    assert found.certificates()["workload"].figure == 1


def test_other_ids_than_those_sent_are_seen() -> None:
    """With every count right."""
    requests = batch()
    other = [changed(ids, 17) for ids in requests.prompts(played(requests).tokens_BT)]
    assert red(audited(requests, played(requests, prompts_sha256=np.array(ids_hash(other))))) == ["workload"]


def test_a_later_turn_without_the_answer_before_it_is_seen() -> None:
    requests = talks()
    out = played(requests)
    prompts = [prompt.tolist() for prompt in requests.prompts(out.tokens_BT)]
    forgetful = [ids[:300] + [8] * 5 + ids[305:] for ids in prompts]  # as long, and not what was answered
    assert red(audited(requests, replace(out, prompts_sha256=np.array(ids_hash(forgetful))))) == ["workload"]


@pytest.mark.parametrize("tokens", [4, 6])
def test_another_number_of_tokens_is_seen(tokens: int) -> None:
    requests = batch()
    rows = padded([[7] * 5, [7] * tokens, [7] * 5, [7] * 5])
    found = audited(requests, played(requests, tokens_BT=rows))
    assert red(found) == ["counts"]
    assert found.certificates()["counts"].reason == "1 requests with another number of tokens than asked"


def test_a_short_answer_in_a_conversation_is_no_wrong_prompt() -> None:
    """The next turn's prompt is what the conversation holds, which is shorter."""
    requests = talks()
    rows = padded([[7] * 3, [7] * 5, [7] * 5, [7] * 5])
    prompts = requests.prompts(rows)
    out = played(
        requests, tokens_BT=rows, prompt_B=np.array([len(p) for p in prompts]),
        prompts_sha256=np.array(ids_hash(prompts)),
    )  # fmt: skip
    assert red(audited(requests, out)) == ["counts"]


def test_cached_tokens_where_nothing_is_shared_are_seen() -> None:
    requests = batch()
    found = audited(requests, played(requests, cached_B=np.array([0, 16, 0, 0])))
    assert red(found) == ["cache"]
    assert found.certificates()["cache"].reason == "16 prompt tokens from the prefix cache, declared 0 to 0"


def test_the_cache_must_give_between_the_floor_and_all_there_is() -> None:
    """Reusable: 0 and 304 tokens of the first conversation, 200 (the system prompt) and 304 of the second."""
    requests = talks()
    assert reusable(requests).tolist() == [0, 304, 200, 304]
    low = int(0.5 * (0 + 176 + 72 + 176))  # half of what is left when each prompt loses a block of 128
    for cached, ok in ((low - 1, False), (low, True), (808, True), (809, False)):
        found = audited(requests, played(requests, cached_B=np.array([0, cached, 0, 0])), floor=0.5)
        assert found.certificates()["cache"].ok is ok, cached
        assert found.certificates()["cache"].figure == cached
        assert f"declared {low} to 808" in found.certificates()["cache"].reason


def test_without_a_floor_the_cache_may_give_nothing() -> None:
    assert red(audited(talks(), played(talks()))) == []


def test_a_cache_that_is_off_must_give_nothing() -> None:
    requests = talks()
    assert red(audited(requests, played(requests), caching=False)) == []
    one = played(requests, cached_B=np.array([0, 1, 0, 0]))
    assert red(audited(requests, one, caching=False)) == ["cache"]
    assert red(audited(requests, one, caching=True)) == []


def test_groups_may_reuse_their_prompt() -> None:
    requests = grouped(batch(2), 3)
    assert red(audited(requests, played(requests, cached_B=np.array([0, 299, 299] * 2)), floor=1.0)) == []
    assert red(audited(requests, played(requests, cached_B=np.array([0, 299, 300] * 2)))) == ["cache"]


def late(share: int, seconds: float) -> Audit:
    """200 requests with times of their own, so many of which went out late."""
    requests = arriving(batch(200), 100.0, "fixed", (1,))
    out = played(requests)
    lag = np.where(np.arange(200) < share, seconds, 0.0)
    return audited(requests, replace(out, sent_B=out.due_B + lag))


def test_one_request_in_a_hundred_may_be_late() -> None:
    assert red(late(2, 0.5)) == []
    assert red(late(3, 0.5)) == ["client"]
    assert red(late(200, 0.009)) == []
    found = late(3, 0.5).certificates()["client"]
    assert found.figure == 0.015
    assert found.reason == "1.5% of requests sent over 10 ms late, the latest 500.0 ms"


def test_a_pause_that_lasts_too_long_is_late_too() -> None:
    requests = talks(0.5)
    out = played(requests)
    assert red(audited(requests, replace(out, sent_B=changed(out.due_B, 1, 0.02)))) == ["client"]


def sent_within(seconds: float, of: float) -> Audit:
    """A batch all of which is due at once, the last request sent later than the first."""
    requests = batch()
    return audited(requests, played(requests, sent_B=np.array([0.0, 0.0, seconds, 0.0]), seconds=np.array(of)))


def test_a_batch_must_be_sent_in_a_fifth_of_its_time() -> None:
    assert red(sent_within(0.39, of=2.0)) == []
    assert red(sent_within(0.41, of=2.0)) == ["client"]
    assert sent_within(0.41, of=2.0).certificates()["client"].figure == pytest.approx(0.205)


def test_a_batch_sent_within_ten_milliseconds_is_well_however_short() -> None:
    assert red(sent_within(0.009, of=0.02)) == []
    assert red(sent_within(0.011, of=0.02)) == ["client"]


def test_the_slowest_batch_of_all_calls_counts() -> None:
    found = sent_within(0.5, of=1.0)
    requests = batch()
    found.add(requests, played(requests), 0.0)
    assert red(found) == ["client"]


def test_calls_add_up() -> None:
    requests, found = batch(), Audit()
    out = played(requests)
    for _ in range(3):
        found.add(requests, replace(out, prompt_B=changed(out.prompt_B, 0), cached_B=changed(out.cached_B, 0)), 0.0)
    assert found.certificates()["workload"].figure == 3
    assert found.certificates()["cache"].figure == 3
    assert found.hashes == [requests.sha256[:16]] * 3


def test_what_broke_in_one_call_of_many_stays_broken() -> None:
    requests, found = batch(), Audit()
    found.add(requests, played(requests, tokens_BT=padded([[7] * 4] * 4)), 0.0)
    for _ in range(9):
        found.add(requests, played(requests), 0.0)
    assert red(found) == ["counts"]


def timed(count: int, **changes: Any) -> Audit:
    """So many requests of 5 tokens; request i takes i seconds to its first token and 2 i to its last."""
    requests, seconds = batch(count), np.arange(count, dtype=np.float64)
    return audited(requests, played(requests, first_B=seconds, done_B=2 * seconds, **changes))


@pytest.mark.parametrize(("name", "share", "needed"), [("p90", 0.90, 64), ("p99", 0.99, 662)])
def test_a_percentile_is_told_from_enough_samples_on(name: str, share: float, needed: int) -> None:
    assert stats.samples_needed(share) == needed
    told, _ = timed(needed).tails()
    untold, missing = timed(needed - 1).tails()
    assert told[f"ttft_{name}"] == pytest.approx(share * (needed - 1))
    assert told[f"latency_{name}"] == pytest.approx(2 * share * (needed - 1))
    assert f"ttft_{name}" not in untold
    assert missing[f"ttft_{name}"] == missing[f"latency_{name}"] == f"{needed - 1} samples, {needed} needed"


def test_every_percentile_is_told_or_has_its_reason() -> None:
    for found in (timed(1), timed(64), timed(662), Audit()):
        told, missing = found.tails()
        assert told.keys() | missing.keys() == PERCENTILES.keys() <= METRICS.keys()
        assert not told.keys() & missing.keys()


def test_samples_of_all_calls_count_together() -> None:
    found, requests = Audit(), batch(32)
    for first in (0.1, 0.3):
        found.add(requests, played(requests, first_B=np.full(32, first)), 0.0)
    told, _ = found.tails()
    assert told["ttft_p90"] == pytest.approx(0.3)
    assert audit.pooled(found.calls, "ttft").tolist() == [0.1] * 32 + [0.3] * 32


def test_gaps_have_percentiles_where_outputs_were_streamed() -> None:
    _, missing = timed(4).tails()
    assert missing["itl_p99"] == "not streamed"
    _, missing = timed(4, gaps_N=np.ones(661)).tails()
    assert missing["itl_p99"] == "661 samples, 662 needed"
    told, _ = timed(4, gaps_N=np.arange(662.0)).tails()
    assert told["itl_p99"] == pytest.approx(0.99 * 661)


def test_answers_of_one_token_have_no_time_between_tokens() -> None:
    requests = batch(4, tokens=1)
    out = played(requests)
    assert "tpot" not in audit.figures(requests, out)
    assert audited(requests, out).tails()[1]["tpot_p99"] == "nothing to measure"
    some = replace(requests, output_B=np.array([1, 5, 1, 1], np.int32))
    assert audit.tpot(played(some)) == pytest.approx([0.9 / 4])


def test_a_client_that_sends_late_looks_no_better() -> None:
    """The engine answers 0.1 s after it gets a request; a client that sends 1 s late makes all the times 1 s longer."""
    requests = arriving(batch(64), 100.0, "fixed", (1,))
    prompt = played(requests)
    tardy = replace(prompt, sent_B=prompt.sent_B + 1, first_B=prompt.first_B + 1, done_B=prompt.done_B + 1)
    for name in ("ttft", "latency", "conversation_time"):
        good, bad = (audit.figures(requests, out)[name] for out in (prompt, tardy))
        assert bad == pytest.approx(good + 1), name
    for name in ("ttft_p90", "latency_p90"):
        good, bad = (audited(requests, out).tails()[0][name] for out in (prompt, tardy))
        assert bad == pytest.approx(good + 1), name
    assert red(audited(requests, tardy)) == ["client"]


def answer(prompt: Sequence[int], tokens: int, cached: int, times: Sequence[float], **more: Any) -> Answer:
    due, sent, first, done = times
    return Answer(
        [7] * tokens, prompt, len(prompt), cached, due=due, sent=sent, first=first, done=done, **more
    )  # fmt: skip


def test_figures_by_hand() -> None:
    """Conversation A: two turns, 1 s of pause; B: one turn, due at 0.5 s, sent 0.1 s late. The clock began at 10 s."""
    requests = Requests(
        ids_N=np.array([1, 2, 3, 4, 5, 6], np.int32),
        input_B=np.array([3, 1, 2], np.int32),
        output_B=np.array([2, 3, 1], np.int32),
        conversation_B=np.array([0, 0, 1], np.int32),
        due_B=np.array([0.0, 1.0, 0.5]),
    )
    out = gather(
        [
            answer([1, 2, 3], 2, 0, (10.0, 10.0, 10.2, 10.4), queued=0.05, stamps=(10.2, 10.4)),
            answer([1, 2, 3, 7, 7, 4], 3, 4, (11.4, 11.4, 11.5, 12.1), queued=0.01, stamps=(11.5, 11.6, 12.1)),
            answer([5, 6], 1, 0, (10.5, 10.6, 11.0, 11.0), queued=0.20, stamps=(11.0,)),
        ],
        10.0, 2.5, preemptions=1,
    )  # fmt: skip
    assert red(audited(requests, replace(out, sent_B=out.due_B))) == []
    assert audit.figures(requests, out) == pytest.approx(
        {
            "output_throughput": 6 / 2.5,
            "total_throughput": (6 + 11) / 2.5,
            "step_time": 2.5,
            "ttft": 0.2,  # of 0.2, 0.1 and 0.5
            "tpot": (0.2 + 0.3) / 2,
            "itl": 0.2,  # of 0.2, 0.1 and 0.5
            "latency": 0.5,  # of 0.4, 0.7 and 0.5
            "conversation_time": (2.1 + 0.5) / 2,  # A with its pause, and B
            "cache_share": 4 / 11,
            "preemptions": 1,
            "queue_time": 0.05,
        }
    )


def test_what_the_engine_does_not_tell_is_no_figure() -> None:
    found = audit.figures(batch(), played(batch()))
    assert not {"itl", "queue_time"} & found.keys()
    assert found.keys() <= METRICS.keys()


def test_a_bubble_is_what_the_slowest_conversation_costs_a_batch() -> None:
    """Conversations end at 1, 2 and 5 s of a call of 8 s; what their first turns did is nothing to it."""
    requests = conversations((1,), 3, 2, 0, 9, 5, 0.0, 5000)
    out = played(requests, done_B=np.array([0.9, 1.0, 0.1, 2.0, 0.1, 5.0]), seconds=np.array(8.0))
    assert audit.figures(requests, out)["bubble_share"] == pytest.approx((5 - 2) / 8)
    assert audit.figures(batch(), played(batch()))["bubble_share"] == 0


def test_a_schedule_leaves_no_bubble_to_tell() -> None:
    requests = arriving(batch(), 9.0, "fixed", (1,))
    assert "bubble_share" not in audit.figures(requests, played(requests))


def test_the_table_tells_what_each_request_of_each_call_did() -> None:
    requests = talks(0.5)
    out = played(requests)
    found = audited(requests, out)
    found.add(requests, out, 0.0)
    table = found.table()
    assert len(table) == 2
    assert table[1]["first"] == pytest.approx(out.first_B.tolist(), abs=1e-6)
    assert table[1]["prompt"] == requests.prompt_B.tolist()
    assert table[1]["output"] == [5] * 4
    assert table[1].keys() == {"due", "sent", "first", "done", "queued", "prompt", "cached", "output"}

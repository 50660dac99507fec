"""Figures of a call by hand, percentiles where samples suffice, times that count from when a request was due."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness import audit, stats
from harness.audit import Audit
from harness.metrics import METRICS, PERCENTILES
from harness.rollouts import Answer, Requests, gather
from harness.workload import arriving, conversations
from tests.calls import audited, batch, played, red, talks


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
    for name in ("ttft", "latency"):
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

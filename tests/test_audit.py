"""What was asked held against what came: each certificate both ways."""

from dataclasses import replace

import numpy as np
import pytest

from harness.audit import Audit
from harness.rollouts import Requests, ids_hash, padded
from harness.workload import arriving, grouped, reusable
from tests.calls import audited, batch, played, red, talks


def changed(values: np.ndarray, place: int, by: float = 1) -> np.ndarray:
    """A copy in which one value differs."""
    copy = values.copy()
    copy[place] += by
    return copy


@pytest.mark.parametrize("requests", [batch(), talks(), talks(0.5), arriving(batch(), 9.0, "fixed", (1,))])
def test_a_call_as_it_was_asked_is_green(requests: Requests) -> None:
    found = audited(requests, played(requests)).certificates()
    client = True if requests.scheduled else None  # of a batch it does not apply
    assert {name: certificate.ok for name, certificate in found.items()} == {
        "workload": True, "counts": True, "cache": True, "client": client,
    }  # fmt: skip


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
    """Reusable: 0 and 305 tokens of the first conversation, 200 (the system prompt) and 305 of the second."""
    requests = talks()
    assert reusable(requests).tolist() == [0, 305, 200, 305]
    low = int(0.5 * (0 + 177 + 72 + 177))  # half of what is left when each prompt loses a block of 128
    for cached, ok in ((low - 1, False), (low, True), (810, True), (811, False)):
        found = audited(requests, played(requests, cached_B=np.array([0, cached, 0, 0])), floor=0.5)
        assert found.certificates()["cache"].ok is ok, cached
        assert found.certificates()["cache"].figure == cached
        assert f"declared {low} to 810" in found.certificates()["cache"].reason


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


def test_how_long_a_batch_took_to_send_is_told_without_a_verdict() -> None:
    """Of all calls, that which took the largest share of its time."""
    requests, found = batch(), Audit()
    for slowest, seconds in ((0.1, 2.0), (0.9, 3.0), (0.5, 5.0)):
        found.add(requests, played(requests, sent_B=np.array([0.0, slowest, 0.0, 0.0]), seconds=np.array(seconds)), 0.0)
    client = found.certificates()["client"]
    assert (client.ok, client.figure) == (None, 0.3)
    assert "900.0 ms to take them, 30.0%" in client.reason


def test_one_call_with_a_schedule_gives_the_client_its_verdict() -> None:
    found = late(3, 0.5)
    found.add(batch(), played(batch()), 0.0)
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

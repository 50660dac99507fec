"""Arrays of requests and rollouts: what they hold, and how they travel."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.rollouts import Answer, Arrays, Requests, Rollouts, gather, ids_hash, lengths, padded

unhurried = settings(deadline=None, max_examples=50)  # the machine may be busy
IDS = st.lists(st.integers(0, 2**31 - 1), max_size=9)
ROWS = st.lists(IDS, max_size=6)


def asked(turns: Sequence[tuple[int, Sequence[int], int]], due: Sequence[float] = ()) -> Requests:
    """Requests of (conversation, new ids, tokens to generate)."""
    return Requests(
        ids_N=np.array([i for _, ids, _ in turns for i in ids], np.int32),
        input_B=np.array([len(ids) for _, ids, _ in turns], np.int32),
        output_B=np.array([count for *_, count in turns], np.int32),
        conversation_B=np.array([conversation for conversation, *_ in turns], np.int32),
        due_B=np.array(due or [0.0] * len(turns), np.float64),
    )


REQUESTS = st.lists(st.tuples(st.integers(0, 3), IDS, st.integers(1, 4)), min_size=1, max_size=8).map(asked)
TWO_TALKS = asked([(7, [1, 2], 2), (3, [5], 1), (7, [3], 1), (7, [4, 4], 1)], due=[0.0, 1.5, 0.2, 0.0])


def answers() -> list[Answer]:
    """Two, of a call that began when the clock showed 100 s."""
    long = Answer(
        [5, 6, 7], [1, 2, 3, 4], 4, 2, first=100.3, done=100.5, logprobs=[-1.0, -2.0, -3.0],
        stamps=[100.3, 100.35, 100.5], due=100.1, sent=100.2, queued=0.01,
    )  # fmt: skip
    return [long, Answer([8], [1, 2, 3], 3, 0, first=100.2, done=100.2, logprobs=[-4.0], due=100.0, sent=100.0)]


def same(a: Arrays, b: Arrays) -> None:
    for name, value in vars(a).items():
        np.testing.assert_array_equal(getattr(b, name), value, err_msg=name)
        assert getattr(b, name).dtype == value.dtype, name


@unhurried
@given(ROWS)
def test_padding_keeps_every_row(rows: list[list[int]]) -> None:
    ids = padded(rows)
    assert lengths(ids).tolist() == [len(row) for row in rows]
    assert [row[: len(kept)].tolist() for row, kept in zip(ids, rows, strict=True)] == rows


@unhurried
@given(ROWS, ROWS)
def test_hash_tells_prompts_apart(a: list[list[int]], b: list[list[int]]) -> None:
    assert (ids_hash(a) == ids_hash(b)) == (a == b)
    assert ids_hash(a) == ids_hash(np.array(row, np.int64) for row in a)  # whatever holds the ids


def test_hash_sees_where_a_prompt_ends_and_their_order() -> None:
    found = {ids_hash(p) for p in ([[1, 2], [3]], [[1], [2, 3]], [[3], [1, 2]], [[1, 2, 3]], [[1, 2], [3], []])}
    assert len(found) == 5


@unhurried
@given(REQUESTS)
def test_new_ids_are_those_of_each_request(requests: Requests) -> None:
    assert [len(ids) for ids in requests.new] == requests.input_B.tolist()
    assert [i for ids in requests.new for i in ids] == requests.ids_N.tolist()


@unhurried
@given(REQUESTS)
def test_conversations_hold_every_request_once_in_its_order(requests: Requests) -> None:
    for places in requests.conversations:
        assert places == sorted(places)
        assert len(set(requests.conversation_B[places].tolist())) == 1
    every = [place for places in requests.conversations for place in places]
    assert sorted(every) == list(range(len(requests.input_B)))
    assert len(requests.conversations) == len(set(requests.conversation_B.tolist()))


@unhurried
@given(REQUESTS)
def test_a_prompt_is_all_that_its_conversation_holds(requests: Requests) -> None:
    tokens = [[1000 + place] * count for place, count in enumerate(requests.output_B.tolist())]
    found = requests.prompts(padded(tokens))
    assert [len(prompt) for prompt in found] == requests.prompt_B.tolist()
    held: dict[int, list[int]] = {}
    for place, conversation in enumerate(requests.conversation_B.tolist()):
        expected = held.get(conversation, []) + requests.new[place]
        assert found[place].tolist() == expected
        held[conversation] = expected + tokens[place]


def test_prompts_by_hand() -> None:
    answered = padded([[11, 12], [13], [14], [15]])
    assert [p.tolist() for p in TWO_TALKS.prompts(answered)] == [
        [1, 2], [5], [1, 2, 11, 12, 3], [1, 2, 11, 12, 3, 14, 4, 4],
    ]  # fmt: skip
    assert TWO_TALKS.prompt_B.tolist() == [2, 1, 5, 8]
    assert TWO_TALKS.conversations == [[0, 2, 3], [1]]


def test_a_short_answer_makes_the_next_prompt_shorter() -> None:
    found = TWO_TALKS.prompts(padded([[11], [], [14], [15]]))
    assert [p.tolist() for p in found] == [[1, 2], [5], [1, 2, 11, 3], [1, 2, 11, 3, 14, 4, 4]]


def test_requests_are_scheduled_when_any_has_a_time() -> None:
    assert TWO_TALKS.scheduled
    assert not replace(TWO_TALKS, due_B=np.zeros(4)).scheduled


@pytest.mark.parametrize("field", ["ids_N", "input_B", "output_B", "conversation_B", "due_B"])
def test_hash_of_requests_sees_every_field(field: str) -> None:
    changed = getattr(TWO_TALKS, field).copy()
    changed[-1] += 1
    assert replace(TWO_TALKS, **{field: changed}).sha256 != TWO_TALKS.sha256
    assert replace(TWO_TALKS, ids_N=TWO_TALKS.ids_N.copy()).sha256 == TWO_TALKS.sha256


@unhurried
@given(REQUESTS)
def test_hash_of_requests_knows_no_width_of_numbers(requests: Requests) -> None:
    wide = {name: value.astype(np.int64) for name, value in vars(requests).items() if name != "due_B"}
    assert replace(requests, **wide).sha256 == requests.sha256


def test_requests_come_back_as_they_went(tmp_path: Path) -> None:
    same(TWO_TALKS, Requests.load(tmp_path / "x", TWO_TALKS.save(tmp_path / "x")))


def test_rollouts_come_back_as_they_went(tmp_path: Path) -> None:
    sent = gather(answers(), 100.0, 0.6, 2)
    back = Rollouts.load(tmp_path / "x", sent.save(tmp_path / "x"))
    same(sent, back)
    assert back.output_B.tolist() == [3, 1]
    assert back.seconds.shape == ()


def test_answers_are_gathered_from_the_start_of_the_call() -> None:
    out = gather(answers(), 100.0, 0.6, 2)
    assert out.tokens_BT.tolist() == [[5, 6, 7], [8, -1, -1]]
    assert (out.prompt_B.tolist(), out.cached_B.tolist()) == ([4, 3], [2, 0])
    assert out.due_B == pytest.approx([0.1, 0.0])
    assert out.sent_B == pytest.approx([0.2, 0.0])
    assert out.first_B == pytest.approx([0.3, 0.2])
    assert out.done_B == pytest.approx([0.5, 0.2])
    assert out.gaps_N == pytest.approx([0.05, 0.15])
    assert (float(out.seconds), int(out.preemptions)) == (0.6, 2)
    assert str(out.prompts_sha256) == ids_hash([[1, 2, 3, 4], [1, 2, 3]])
    assert np.isnan(out.logprobs_BT[1, 1:]).all()
    np.testing.assert_array_equal(out.queued_B, [0.01, np.nan])  # the second engine did not tell


def test_what_was_not_asked_for_takes_no_room() -> None:
    plain = Answer([1], [1], 1, 0, first=time.perf_counter(), done=time.perf_counter())
    out = gather([plain], 0.0, 1.0, 0)
    assert out.logprobs_BT.shape == (1, 0)
    assert out.gaps_N.shape == (0,)


def test_no_answer_at_all_is_empty() -> None:
    out = gather([], 0.0, 1.0, 0)
    assert out.tokens_BT.shape == (0, 0)
    assert out.gaps_N.shape == out.due_B.shape == (0,)

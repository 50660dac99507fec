"""Workloads: repeatable, with the lengths, arrivals and shared prefixes that they say, and no others."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.rollouts import Requests
from harness.workload import arriving, conversations, grouped, heavy_tail, independent, random_ids, reusable

unhurried = settings(deadline=None, max_examples=40)  # the machine may be busy
COUNTS = st.integers(1, 5)
TALKS = st.builds(
    conversations, st.tuples(st.integers(0, 99)), COUNTS, COUNTS, st.integers(0, 6), COUNTS, COUNTS, st.just(0.0),
    st.integers(50, 2000),
)  # fmt: skip


def talks(
    seed: Sequence[int] = (0, 1), count: int = 3, turns: int = 3, system: int = 5, pause: float = 0.0
) -> Requests:
    """Conversations of 4 new tokens and answers of 2 a turn."""
    return conversations(seed, count, turns, system, 4, 2, pause, 1000)


def answered(requests: Requests) -> list[list[int]]:
    """Whole prompts, when every answer differs from all others."""
    tokens = 10_000 + np.arange(requests.output_B.sum(), dtype=np.int32)
    ends = np.cumsum(requests.output_B)
    width = int(requests.output_B.max())
    rows = np.full((len(ends), width), -1, np.int32)
    for row, end, count in zip(rows, ends.tolist(), requests.output_B.tolist(), strict=True):
        row[:count] = tokens[end - count : end]
    return [prompt.tolist() for prompt in requests.prompts(rows)]


def test_a_seed_is_a_workload() -> None:
    a, b, other = (independent(seed, [20] * 8, [5] * 8, 1000) for seed in ((0, 1), (0, 1), (0, 2)))
    assert a.sha256 == b.sha256 != other.sha256
    assert a.output_B.tolist() == [5] * 8
    assert talks().sha256 == talks().sha256 != talks((0, 2)).sha256
    # Pinned: a change of these hashes makes old records incomparable, and must raise the schema.
    assert a.sha256 == "f9cef7cfb0118300e918597ca39195d989e5dea3ade6a725f84ba3ed5ad94b7a"
    assert talks(pause=0.5).sha256 == "d7d4856763a0d9f102fb5a5718634f7ba125802c4b692b14f1289c687714804f"
    assert grouped(talks(), 2).sha256 == "deca036c74cf4b4c7bf5c4fb9fb3afe59c32adeef1e6d69a6eac4a82b4037506"
    assert (
        arriving(a, 8.0, "poisson", (0, 1)).sha256 == "5387d099b9c20687c8361808d5c3967de7f201a95eb2dd1e4f0923e3f319f461"
    )
    assert heavy_tail((0,), 6, 64, 512).tolist() == [69, 28, 92, 99, 95, 25]


def test_no_two_prompts_begin_alike() -> None:
    ids = random_ids((3,), 512, 4, 600)
    assert len(np.unique(ids[:, 0])) == 512
    assert ids.min() >= 0
    assert ids.max() < 600


def test_more_requests_than_tokens_still_make_prompts() -> None:
    ids = random_ids((3,), 20, 4, 8)
    assert ids.shape == (20, 4)
    assert ids.max() < 8


@unhurried
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=12))
def test_each_request_has_its_own_lengths(both: list[tuple[int, int]]) -> None:
    inputs, outputs = ([pair[i] for pair in both] for i in (0, 1))
    requests = independent((1,), inputs, outputs, 500)
    assert requests.prompt_B.tolist() == [len(ids) for ids in requests.new] == inputs
    assert requests.output_B.tolist() == outputs
    assert len(requests.conversations) == len(both)
    assert not requests.scheduled
    assert reusable(requests).tolist() == [0] * len(both)


def test_turns_of_a_conversation_grow_behind_one_system_prompt() -> None:
    requests = talks(count=3, turns=3, system=5)
    new, system = requests.new, requests.new[0][:5]
    assert requests.input_B.tolist() == [9, 4, 4] * 3
    assert requests.prompt_B.tolist() == [9, 15, 21] * 3
    assert requests.conversations == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert all(new[place][:5] == system for place in (0, 3, 6))
    assert len({new[place][5] for place in (0, 3, 6)}) == 3  # behind it, they go apart at once
    assert not requests.scheduled


def test_without_a_system_prompt_conversations_share_nothing() -> None:
    requests = talks(system=0)
    assert len({ids[0] for ids in requests.new}) == 9
    assert requests.input_B.tolist() == [4] * 9


def test_pauses_stand_between_turns_alone() -> None:
    requests = talks(count=400, turns=3, pause=0.5)
    due = requests.due_B.reshape(400, 3)
    assert (due[:, 0] == 0).all()
    assert (due[:, 1:] > 0).all()
    assert due[:, 1:].mean() == pytest.approx(0.5, rel=0.15)
    assert due[:, 1:].std() == pytest.approx(0.5, rel=0.2)  # exponential: as wide as its mean
    assert requests.ids_N.tolist() == talks(count=400, turns=3).ids_N.tolist()  # the same words with and without


def test_a_group_is_one_conversation_many_times_next_to_each_other() -> None:
    plain = talks(count=2, turns=2, pause=0.5)
    four = grouped(plain, 4)
    assert four.conversation_B.tolist() == [number for number in range(8) for _ in range(2)]
    for number, places in enumerate(four.conversations):
        original = plain.conversations[number // 4]
        assert [four.new[p] for p in places] == [plain.new[p] for p in original]
        assert four.output_B[places].tolist() == plain.output_B[original].tolist()
        assert four.due_B[places].tolist() == plain.due_B[original].tolist()
    assert grouped(plain, 1) is plain


def test_conversations_that_stand_between_each_other_are_grouped_too() -> None:
    mixed = Requests(*(np.array(v, np.int32) for v in ([1, 2, 3], [1] * 3, [7, 8, 9], [5, 2, 5])), np.zeros(3))
    found = grouped(mixed, 2)
    assert found.new == [[1], [3], [1], [3], [2], [2]]
    assert found.output_B.tolist() == [7, 9, 7, 9, 8, 8]
    assert found.conversation_B.tolist() == [0, 0, 1, 1, 2, 3]


def test_fixed_arrivals_are_even() -> None:
    requests = arriving(independent((1,), [3] * 5, [2] * 5, 99), 4.0, "fixed", (1,))
    assert requests.due_B == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.25])
    assert requests.scheduled


def test_poisson_arrivals_come_as_often_as_asked() -> None:
    plain = independent((1,), [3] * 2000, [2] * 2000, 5000)
    requests = arriving(plain, 8.0, "poisson", (1,))
    gaps = np.diff(requests.due_B, prepend=0.0)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.1)
    assert gaps.std() == pytest.approx(1 / 8, rel=0.15)
    assert np.corrcoef(gaps[:-1], gaps[1:])[0, 1] == pytest.approx(0, abs=0.1)
    assert arriving(plain, 8.0, "poisson", (2,)).due_B.tolist() != requests.due_B.tolist()
    assert requests.ids_N.tolist() == plain.ids_N.tolist()


def test_conversations_arrive_and_their_pauses_stay() -> None:
    plain = talks(count=3, turns=2, pause=0.5)
    requests = arriving(plain, 2.0, "fixed", (1,))
    assert requests.due_B[::2] == pytest.approx([0.5, 1.0, 1.5])
    assert requests.due_B[1::2].tolist() == plain.due_B[1::2].tolist()
    assert not plain.due_B[::2].any()  # the workload given is left as it was


def test_a_heavy_tail_has_its_median_and_its_end() -> None:
    drawn = heavy_tail((3,), 4000, 64, 512)
    assert np.median(drawn) == pytest.approx(64, rel=0.1)
    assert (drawn.min() >= 1) and drawn.max() == 512
    assert drawn.mean() > 1.3 * np.median(drawn)
    assert heavy_tail((3,), 4000, 64, 512).tolist() == drawn.tolist() != heavy_tail((4,), 4000, 64, 512).tolist()


def test_what_a_perfect_cache_could_give_by_hand() -> None:
    """Turns of 4 new tokens and answers of 2, behind 5 of the system: prompts of 9, 15, 21."""
    assert reusable(talks(count=2, turns=3, system=5)).tolist() == [0, 11, 17, 5, 11, 17]
    assert reusable(talks(count=2, turns=2, system=0)).tolist() == [0, 6, 0, 6]
    assert reusable(grouped(talks(count=2, turns=1, system=5), 2)).tolist() == [0, 8, 5, 8]


def test_a_prompt_all_of_which_is_known_still_computes_its_last_token() -> None:
    assert reusable(grouped(independent((1,), [6, 1], [2, 2], 99), 3)).tolist() == [0, 5, 5, 0, 0, 0]


@unhurried
@given(TALKS, st.integers(1, 3))
def test_a_perfect_cache_gives_what_is_said(requests: Requests, samples: int) -> None:
    """Held against a cache that is asked prompt by prompt, each answer in it before the next prompt comes."""
    requests = grouped(requests, samples)
    prompts, known, found = answered(requests), set[tuple[int, ...]](), list[int]()
    for places in requests.conversations:
        for place in places:
            prompt = prompts[place]
            hits = [n for n in range(len(prompt)) if tuple(prompt[:n]) in known]
            found.append(max(hits, default=0))
            ids = prompt + list(range(10**6 * (place + 1), 10**6 * (place + 1) + int(requests.output_B[place])))
            if place != places[-1]:
                following = prompts[places[places.index(place) + 1]]
                ids = following[: len(prompt) + int(requests.output_B[place])]
            known |= {tuple(ids[:n]) for n in range(1, len(ids) + 1)}
    if samples == 1:
        assert reusable(requests).tolist() == found
    else:  # samples of a group may answer alike
        assert (reusable(requests) >= found).all()
        assert (reusable(requests) < requests.prompt_B).all()


def test_schedules_do_not_change_what_may_be_reused() -> None:
    requests = talks()
    assert reusable(replace(requests, due_B=np.ones(9))).tolist() == reusable(requests).tolist()

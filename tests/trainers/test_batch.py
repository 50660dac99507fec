"""Batches: how they are laid out, joined and packed, and what they refuse."""

from typing import Any

import pytest
import torch
from hypothesis import given

from tests.trainers.cases import Case, cases
from trainers.batch import Batch, build, group_ids, join, packed, turns

GOOD: dict[str, Any] = {
    "prompts": [[5, 6, 7], [8]],
    "outputs": [[1, 2], [3, 4, 9]],
    "logprobs": [[-0.5, -1.0], [-2.0, -3.0, float("nan")]],
    "rewards": [1.0, 0.25],
    "groups": [0, 0],
    "ended": [True, False],
    "own": [[True, True], [True, True, False]],
    "limit": 4,
}


def made(**changes: Any) -> Batch:
    return build(**(GOOD | changes))


def test_a_value_stands_at_the_token_that_it_belongs_to() -> None:
    batch = made()
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 1, 2], [8, 3, 4, 9, 0]]
    assert batch.mask_BT.tolist() == [[False] * 3 + [True] * 2, [False, True, True, False, False]]
    assert batch.sampled_BT is not None
    assert batch.sampled_BT.tolist() == [[0, 0, 0, -0.5, -1.0], [0, -2.0, -3.0, 0, 0]]
    assert batch.valid_BT.tolist() == [[True] * 5, [True] * 4 + [False]]
    assert batch.own_B.tolist() == [2, 2]
    assert batch.groups == 1


def test_without_marks_all_of_an_output_is_the_policys() -> None:
    assert made(own=None, logprobs=None).own_B.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": [], "outputs": []}, "without a sample"),
        ({"rewards": [1.0]}, "2 prompts and 1 rewards"),
        ({"groups": [0, 2]}, "group 1 is empty"),
        ({"groups": [1, 1]}, "group 0 is empty"),
        ({"prompts": [[], [8]]}, "prompt of row 0 is empty"),
        ({"outputs": [[1, 2], []], "own": [[True, True], []], "logprobs": None}, "row 1 has no token of the policy's"),
        ({"own": [[True, True], [False] * 3]}, "row 1 has no token of the policy's"),
        ({"own": [[True], [True] * 3]}, "row 0 has 2 output tokens and 1 marks"),
        ({"limit": 1}, "row 0 has 2 own tokens, over its limit of 1"),
        ({"rewards": [1.0, float("nan")]}, "reward of row 1 is nan"),
        ({"logprobs": [[-0.5, -1.0], [-2.0]]}, "row 1 has 3 output tokens and 1 log-probabilities"),
        ({"own": None}, "no log-probability for output token 2 of row 1"),
        ({"logprobs": [[-0.5, float("-inf")], [-2.0, -3.0, 0.0]]}, "no log-probability for output token 1 of row 0"),
    ],
)
def test_bad_input_gives_one_clear_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_a_group_size_must_divide_the_batch() -> None:
    assert group_ids(6, 3) == [0, 0, 0, 1, 1, 1]
    for count, size in ((7, 3), (6, 0)):
        with pytest.raises(ValueError, match=f"{count} samples do not make groups of {size}"):
            group_ids(count, size)


def test_a_conversation_becomes_one_row() -> None:
    ids, own, logprobs = turns([[1, 2], [3]], [[7, 8]], [[-1.0, -2.0], [-3.0]])
    assert (ids, own) == ([1, 2, 7, 8, 3], [True, True, False, False, True])
    assert logprobs == [-1.0, -2.0, 0.0, 0.0, -3.0]
    with pytest.raises(ValueError, match="2 outputs with 2 replies"):
        turns([[1], [2]], [[7], [8]], [[-1.0], [-2.0]])


def test_joined_groups_stay_apart_and_rows_are_padded() -> None:
    long = made(prompts=[[5] * 6, [8]])
    both = join([made(), long])
    assert both.group_B.tolist() == [0, 0, 1, 1]
    assert both.tokens_BT.shape == (4, 8)
    assert both.sampled_BT is not None
    assert both.sampled_BT[1].tolist() == [0, -2, -3, 0, 0, 0, 0, 0]
    assert both.rows(slice(2, 4)).tokens_BT.tolist() == long.tokens_BT.tolist()


@pytest.mark.parametrize(("changes", "message"), [({"limit": 9}, "limits"), ({"logprobs": None}, "some do not")])
def test_batches_of_different_making_do_not_join(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        join([made(), made(**changes)])


@given(cases())
def test_packed_rows_hold_the_same_tokens_in_the_same_order(case: Case) -> None:
    batch, row = case.batch, packed(case.batch)
    assert torch.equal(row.tokens_1N[row.mask_1N], batch.tokens_BT[batch.mask_BT])
    for sequence, end, length in zip(batch.tokens_BT, row.ends_B.tolist(), batch.length_B.tolist(), strict=True):
        assert row.tokens_1N[0, end - length : end].tolist() == sequence[:length].tolist()
        assert row.position_1N[0, end - length : end].tolist() == list(range(length))


@given(cases())
def test_rows_take_every_tensor_along(case: Case) -> None:
    batch = case.batch
    keep = batch.ended_B
    part = batch.rows(keep)
    assert torch.equal(part.tokens_BT, batch.tokens_BT[keep])
    assert torch.equal(part.group_B, batch.group_B[keep])
    assert part.limit == batch.limit

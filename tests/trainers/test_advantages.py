"""Advantages against cases worked by hand, and what must hold for all of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.trainers.cases import REWARD, Case, cases, spoilt
from trainers import advantages
from trainers.advantages import dr_grpo, gae, grpo, reinforce_pp, returns, rloo, spread, varied, whiten

BY_GROUP = [grpo, dr_grpo, rloo]


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


TWO = torch.tensor([0, 0, 1, 1, 1])


def test_grpo_by_hand() -> None:
    """Means 2 and 2; deviations sqrt(2) and 3 (sums of squares 2 and 18 over n - 1)."""
    found = grpo(of(1, 3, -1, 2, 5), TWO, epsilon=0.5)
    assert found.tolist() == pytest.approx([-1 / (2**0.5 + 0.5), 1 / (2**0.5 + 0.5), -3 / 3.5, 0, 3 / 3.5])


def test_dr_grpo_by_hand() -> None:
    assert dr_grpo(of(1, 3, -1, 2, 5), TWO).tolist() == [-1, 1, -3, 0, 3]


def test_rloo_by_hand() -> None:
    assert rloo(of(1, 3, -1, 2, 5), TWO).tolist() == pytest.approx([-2, 2, -4.5, 0, 4.5])


def test_gae_by_hand() -> None:
    """Discount 0.5, lambda 0.5; the second token is a tool's, so the step goes from the first to the third.

    Third: 4 - 2 = 2. First: 1 + 0.5 * 2 - 1 + 0.25 * 2 = 1.5.
    """
    mask_BT = torch.tensor([[True, False, True, False]])
    reward_BT, value_BT = of(1, 9, 4, 9)[None], of(1, 9, 2, 9)[None]
    advantage_BT, return_BT = gae(reward_BT, value_BT, mask_BT, discount=0.5, trace=0.5)
    assert advantage_BT.tolist() == [[1.5, 0, 2, 0]]
    assert return_BT.tolist() == [[2.5, 0, 4, 0]]


def test_returns_by_hand() -> None:
    mask_BT = torch.tensor([[True, True, False, True]])
    assert returns(of(1, 2, 9, 4)[None], mask_BT, discount=0.5).tolist() == [[3, 4, 0, 4]]


def test_reinforce_pp_by_hand() -> None:
    """Returns 3, 2 and 1 over the own tokens: mean 2, deviation sqrt(2 / 3)."""
    mask_BT = torch.tensor([[True, True], [True, False]])
    found = reinforce_pp(torch.tensor([[1.0, 2.0], [1.0, 9.0]], dtype=torch.float64), mask_BT, epsilon=0.0)
    assert found.flatten().tolist() == pytest.approx([math.sqrt(1.5), 0, -math.sqrt(1.5), 0])


@pytest.mark.parametrize("estimator", BY_GROUP)
@given(case=cases(), shift=st.floats(-100, 100))
def test_a_constant_in_the_rewards_changes_nothing(estimator: object, case: Case, shift: float) -> None:
    assert callable(estimator)
    batch = case.batch
    before, after = estimator(batch.reward_B, batch.group_B), estimator(batch.reward_B + shift, batch.group_B)
    assert torch.allclose(before, after, atol=1e-6)


@pytest.mark.parametrize("estimator", BY_GROUP)
@given(case=cases())
def test_advantages_of_a_group_cancel(estimator: object, case: Case) -> None:
    assert callable(estimator)
    found_B = estimator(case.batch.reward_B, case.batch.group_B)
    for group in case.batch.group_B.unique():
        assert float(found_B[case.batch.group_B == group].sum()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("estimator", BY_GROUP)
@given(reward=REWARD, size=st.integers(2, 9))
def test_equal_rewards_give_zeros(estimator: object, dtype: torch.dtype, reward: float, size: int) -> None:
    assert callable(estimator)
    found_B = estimator(torch.full((size,), reward, dtype=dtype), torch.zeros(size, dtype=torch.int64))
    assert found_B.tolist() == [0] * size


@pytest.mark.parametrize("estimator", BY_GROUP)
@given(case=cases(), seed=st.integers(0, 99))
def test_order_and_numbers_of_groups_do_not_matter(estimator: object, case: Case, seed: int) -> None:
    assert callable(estimator)
    batch = case.batch
    order_B = torch.randperm(len(batch.reward_B), generator=torch.Generator().manual_seed(seed))
    moved_B = estimator(batch.reward_B[order_B], 1000 - 7 * batch.group_B[order_B])
    assert torch.allclose(moved_B, estimator(batch.reward_B, batch.group_B)[order_B])


@pytest.mark.parametrize("estimator", BY_GROUP)
def test_a_group_of_one_is_refused(estimator: object) -> None:
    assert callable(estimator)
    with pytest.raises(ValueError, match="row 2 is alone in its group"):
        estimator(of(1, 2, 3), torch.tensor([0, 0, 1]))


@given(cases(), st.floats(1, 100))
def test_grpo_knows_no_scale_and_rloo_does(case: Case, scale: float) -> None:
    reward_B, group_B = case.batch.reward_B, case.batch.group_B
    assert torch.allclose(grpo(reward_B * scale, group_B, 0.0).nan_to_num(), grpo(reward_B, group_B, 0.0).nan_to_num())
    assert torch.allclose(rloo(reward_B * scale, group_B), rloo(reward_B, group_B) * scale)


@given(cases())
def test_rloo_is_the_reward_less_the_mean_of_the_others(case: Case) -> None:
    reward_B, group_B = case.batch.reward_B, case.batch.group_B
    for row, found in enumerate(rloo(reward_B, group_B).tolist()):
        others = (group_B == group_B[row]) & (torch.arange(len(reward_B)) != row)
        assert found == pytest.approx(float(reward_B[row] - reward_B[others].mean()))


@given(cases())
def test_gae_with_lambda_one_is_monte_carlo_less_the_value(case: Case) -> None:
    mask_BT, reward_BT = case.batch.mask_BT, case.new_BT
    advantage_BT, return_BT = gae(reward_BT, case.value_BT, mask_BT, discount=0.9, trace=1.0)
    expected_BT = (returns(reward_BT, mask_BT, 0.9) - case.value_BT).masked_fill(~mask_BT, 0)
    assert torch.allclose(advantage_BT, expected_BT)
    assert torch.allclose(return_BT, returns(reward_BT, mask_BT, 0.9))


@given(cases())
def test_gae_with_lambda_zero_is_one_step_ahead(case: Case) -> None:
    advantage_BT, _ = gae(case.new_BT, case.value_BT, case.batch.mask_BT, discount=0.9, trace=0.0)
    for row, mask in enumerate(case.batch.mask_BT):
        reward, value = case.new_BT[row, mask], case.value_BT[row, mask]
        following = torch.cat([value[1:], torch.zeros(1, dtype=value.dtype)])
        assert torch.allclose(advantage_BT[row, mask], reward + 0.9 * following - value)


@given(cases())
def test_a_perfect_critic_leaves_no_advantage(case: Case) -> None:
    value_BT = returns(case.new_BT, case.batch.mask_BT, 0.9)
    advantage_BT, _ = gae(case.new_BT, value_BT, case.batch.mask_BT, discount=0.9, trace=0.7)
    assert torch.allclose(advantage_BT, torch.zeros_like(advantage_BT), atol=1e-12)


@given(cases(), st.sampled_from([float("nan"), float("inf"), 7.0]))
def test_what_stands_off_the_mask_changes_nothing(case: Case, junk: float) -> None:
    mask_BT = case.batch.mask_BT
    reward_BT, value_BT = (spoilt(value, mask_BT, junk) for value in (case.new_BT, case.value_BT))
    pairs = [
        (gae(reward_BT, value_BT, mask_BT)[0], gae(case.new_BT, case.value_BT, mask_BT)[0]),
        (gae(reward_BT, value_BT, mask_BT)[1], gae(case.new_BT, case.value_BT, mask_BT)[1]),
        (reinforce_pp(reward_BT, mask_BT), reinforce_pp(case.new_BT, mask_BT)),
        (whiten(reward_BT, mask_BT), whiten(case.new_BT, mask_BT)),
    ]
    for spoilt_BT, clean_BT in pairs:
        assert torch.equal(spoilt_BT, clean_BT)
        assert not spoilt_BT[~mask_BT].any()


@given(cases())
def test_whitened_tokens_have_mean_zero_and_deviation_one(case: Case) -> None:
    own_N = whiten(case.new_BT, case.batch.mask_BT, epsilon=0.0)[case.batch.mask_BT].nan_to_num()
    assert float(own_N.mean()) == pytest.approx(0, abs=1e-9)
    if own_N.any():
        assert float(own_N.square().mean()) == pytest.approx(1)


@given(cases(), st.floats(-100, 100))
def test_reinforce_pp_with_one_reward_for_all_gives_zeros(case: Case, reward: float) -> None:
    mask_BT = case.batch.mask_BT
    last_BT = torch.zeros_like(case.new_BT)
    last_BT[torch.arange(len(last_BT)), case.batch.length_B - 1] = reward
    assert not reinforce_pp(last_BT, mask_BT).any()
    assert not reinforce_pp(last_BT.float(), mask_BT).any()


def test_nothing_to_whiten_is_refused() -> None:
    with pytest.raises(ValueError, match="no token to normalise over"):
        whiten(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool))


@given(cases())
def test_groups_of_equal_reward_are_told_from_others(case: Case) -> None:
    batch = case.batch
    expected = [len(set(batch.reward_B[batch.group_B == g].tolist())) > 1 for g in batch.group_B]
    assert varied(batch.reward_B, batch.group_B).tolist() == expected


def test_one_value_for_a_sequence_goes_to_its_own_tokens() -> None:
    mask_BT = torch.tensor([[False, True], [True, True]])
    assert spread(of(2, 3), mask_BT).tolist() == [[0, 2], [3, 3]]


def test_every_estimator_names_its_paper() -> None:
    for estimator in (grpo, dr_grpo, rloo, gae, reinforce_pp):
        assert "arXiv:" in str(estimator.__doc__)
        assert estimator.__module__ == advantages.__name__

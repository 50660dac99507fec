"""The table of algorithms: what holds for every row, and what sets each apart."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.trainers.cases import Case, cases, spoilt
from trainers import losses
from trainers.advantages import gae, varied, whiten
from trainers.algorithms import ALGORITHMS, Algorithm, Kl, Targets, loss, overlong, prepare, refill, rewards
from trainers.batch import Batch, build, join

EVERY = pytest.mark.parametrize("name", ALGORITHMS)
GROUPED = pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "dapo"])


def prepared(algorithm: Algorithm, case: Case, junk: float | None = None) -> Targets:
    mask_BT, given = case.batch.mask_BT, (case.old_BT, case.reference_BT, case.value_BT)
    spoil = given if junk is None else tuple(spoilt(value_BT, mask_BT, junk) for value_BT in given)
    return prepare(algorithm, case.batch, *spoil)


def lost(
    algorithm: Algorithm, case: Case, targets: Targets, rows: Any = slice(None)
) -> tuple[Tensor, dict[str, Tensor]]:
    now = (case.new_BT[rows], case.entropy_BT[rows], case.value_BT[rows] + 0.1)
    return loss(algorithm, targets.rows(rows), *now)


@EVERY
@given(case=cases(), cut=st.integers(0, 8))
def test_micro_batches_add_up_to_the_batch(name: str, case: Case, cut: int) -> None:
    algorithm = replace(ALGORITHMS[name], entropy=0.01)
    targets = prepared(algorithm, case)
    whole, figures = lost(algorithm, case, targets)
    parts = [lost(algorithm, case, targets, rows) for rows in (slice(0, cut), slice(cut, None))]
    assert torch.allclose(parts[0][0] + parts[1][0], whole)
    for figure in figures:
        assert torch.allclose(parts[0][1][figure] + parts[1][1][figure], figures[figure]), figure


@EVERY
@given(case=cases(), junk=st.sampled_from([float("nan"), float("inf"), 5.0]))
def test_what_stands_off_the_mask_changes_nothing(name: str, case: Case, junk: float) -> None:
    algorithm, mask_BT = replace(ALGORITHMS[name], entropy=0.01), case.batch.mask_BT
    clean = lost(algorithm, case, prepared(algorithm, case))
    spoiled = loss(
        algorithm, prepared(algorithm, case, junk), *(spoilt(value_BT, mask_BT, junk) for value_BT in
        (case.new_BT, case.entropy_BT, case.value_BT + 0.1)),
    )  # fmt: skip
    assert torch.equal(clean[0], spoiled[0])
    assert all(torch.equal(clean[1][figure], spoiled[1][figure]) for figure in clean[1])


@EVERY
@given(case=cases(), shift=st.floats(-50, 50))
def test_padding_changes_nothing(name: str, case: Case, shift: float) -> None:
    """The same sequences in a wider batch, with anything behind their ends."""
    algorithm = ALGORITHMS[name]

    def wider(value_BT: Tensor, fill: float) -> Tensor:
        return torch.nn.functional.pad(value_BT, (0, 3), value=fill)

    batch = replace(
        case.batch, tokens_BT=wider(case.batch.tokens_BT, 0), mask_BT=wider(case.batch.mask_BT, False),
        sampled_BT=wider(case.batch.sampled_BT, 0) if case.batch.sampled_BT is not None else None,
    )  # fmt: skip
    tensors = {
        f: wider(getattr(case, f), shift) for f in ("old_BT", "new_BT", "reference_BT", "value_BT", "entropy_BT")
    }
    wide = Case(batch, **tensors)
    before = lost(algorithm, case, prepared(algorithm, case))
    after = lost(algorithm, wide, prepared(algorithm, wide))
    assert torch.allclose(before[0], after[0])


@GROUPED
@given(case=cases(), reward=st.floats(-5, 5))
def test_equal_rewards_give_no_policy_gradient_and_no_nan(name: str, case: Case, reward: float) -> None:
    algorithm = replace(ALGORITHMS[name], kl=Kl(), overlong=0.0)
    batch = replace(case.batch, reward_B=torch.full_like(case.batch.reward_B, reward))
    targets = prepare(algorithm, batch, case.old_BT)
    assert not targets.advantage_BT.any()
    new_BT = case.new_BT.clone().requires_grad_()
    total, figures = loss(algorithm, targets, new_BT)
    (gradient_BT,) = torch.autograd.grad(total, new_BT)
    assert not gradient_BT.any()
    assert float(figures["policy"]) == 0


@EVERY
@given(case=cases())
def test_on_policy_the_gradient_is_the_weighted_advantage(name: str, case: Case) -> None:
    """At ratio 1, without KL and correction: minus advantage times weight; for a ratio of sequences the sum of its
    tokens' advantages and weights at each of its tokens."""
    algorithm = replace(ALGORITHMS[name], kl=Kl(), cap=None, critic=False)
    targets = prepare(algorithm, case.batch, case.old_BT, None, case.value_BT)
    new_BT = case.old_BT.clone().requires_grad_()
    (gradient_BT,) = torch.autograd.grad(loss(algorithm, targets, new_BT)[0], new_BT)
    expected_BT = -targets.advantage_BT * targets.weight_BT
    if algorithm.ratio == "sequence":
        expected_BT = losses.own(expected_BT.sum(-1, keepdim=True).expand_as(expected_BT), targets.mask_BT)
    assert torch.allclose(gradient_BT, expected_BT)


@EVERY
@settings(max_examples=20)
@given(case=cases())
def test_gradients(name: str, case: Case) -> None:
    """Of the whole loss by log-probabilities, entropies and values, where no clip has its corner near."""
    algorithm = replace(ALGORITHMS[name], entropy=0.1, value_clip=1e9)
    targets = prepared(algorithm, case)
    ratio_BT = losses.RATIOS[algorithm.ratio](case.new_BT, case.old_BT, case.batch.mask_BT).exp()
    assume(all(float((ratio_BT - corner).abs().min()) > 1e-4 for corner in (1 - algorithm.low, 1 + algorithm.high)))
    inputs = tuple(x.clone().requires_grad_() for x in (case.new_BT, case.entropy_BT, case.value_BT))
    assert torch.autograd.gradcheck(lambda *now: loss(algorithm, targets, *now)[0], inputs)


@given(cases(whole=True))
def test_with_equal_lengths_the_loss_of_tokens_and_of_sequences_agree(case: Case) -> None:
    found = []
    for weights in losses.WEIGHTS:
        algorithm = replace(ALGORITHMS["grpo"], weights=weights)
        full = replace(case, batch=replace(case.batch, limit=int(case.batch.own_B[0])))
        found.append(lost(algorithm, full, prepared(algorithm, full))[0])
    assert torch.allclose(found[0], found[1])
    assert torch.allclose(found[0], found[2])


def pair(**changes: Any) -> Batch:
    """Two samples of one prompt: two tokens with reward 1, one token with reward 0; limit 4."""
    return build(**{
        "prompts": [[5], [5]], "outputs": [[6, 7], [8]], "logprobs": [[-1.0, -1.0], [-1.0]], "rewards": [1.0, 0.0],
        "groups": [0, 0], "ended": [True, False], "limit": 4, **changes,
    })  # fmt: skip


ONES = -torch.ones(2, 3)


def test_grpo_by_hand() -> None:
    """Advantages ±0.5 / (sqrt(0.5) + 1e-4). Ratios 2 (clipped to 1.2), 1 and 1; each sequence counts one half."""
    new_BT = torch.tensor([[0.0, -1 + 0.6931472, -1.0], [0.0, -1.0, 0.0]])
    algorithm = replace(ALGORITHMS["grpo"], kl=Kl())
    total, figures = loss(algorithm, prepare(algorithm, pair(), ONES), new_BT)
    advantage = 0.5 / (0.5**0.5 + 1e-4)
    assert float(total) == pytest.approx((-(1.2 + 1) / 2 * advantage + advantage) / 2, abs=1e-6)
    assert float(figures["clipped"]) == pytest.approx(1 / 3)
    assert float(figures["ratio"]) == pytest.approx(4 / 3)


def test_dr_grpo_by_hand() -> None:
    """Advantages ±0.5 and 1 / 8 for each token."""
    total, _ = loss(ALGORITHMS["dr_grpo"], prepare(ALGORITHMS["dr_grpo"], pair(), ONES), ONES)
    assert float(total) == pytest.approx((-0.5 * 2 + 0.5) / 8)


def test_dapo_by_hand() -> None:
    """Every token a third; a ratio of 1.3 is clipped to 1.28; half the limit of 4 is where the penalty begins."""
    algorithm = replace(ALGORITHMS["dapo"], overlong=0.75)
    new_BT = ONES + 0.262364
    total, _ = loss(algorithm, prepare(algorithm, pair(), ONES), new_BT)
    gap = (1 - 1 / 3) / 2  # the first sequence's reward is 1 - 1 / 3, the second's 0
    advantage = gap / ((2 * gap**2) ** 0.5 + 1e-4)
    assert float(total) == pytest.approx((-2 * 1.28 + 1.3) * advantage / 3, abs=1e-5)


def test_rloo_by_hand() -> None:
    """Rewards 1 - 0.05 * (0.2 + 0.2) and 0 - 0.05 * 0.2; one ratio for both tokens, exp(0.1)."""
    targets = prepare(ALGORITHMS["rloo"], pair(), ONES, ONES - 0.2)
    assert targets.advantage_BT[:, 1].tolist() == pytest.approx([0.99, -0.99])
    total, _ = loss(ALGORITHMS["rloo"], targets, ONES + 0.05)
    assert float(total) == pytest.approx(0.99 * (-(2.718281828**0.1) + 2.718281828**0.05) / 2, abs=1e-6)


def test_a_penalty_for_kl_stands_at_each_token_and_the_reward_at_the_last() -> None:
    algorithm = replace(ALGORITHMS["reinforce_pp"], kl=Kl("k2", "reward", 0.5))
    found_BT = rewards(algorithm, pair(), ONES, ONES - 2)
    assert found_BT.tolist() == [[0, -1, 0], [0, -1, 0]]


def test_ppo_learns_returns_and_bounds_the_value() -> None:
    """No KL, values 0: returns are the rewards. The first sequence's value 0.9 is held to 0.2, errors 0.8 ** 2 / 2; the
    second's is right."""
    algorithm = replace(ALGORITHMS["ppo"], kl=Kl())
    targets = prepare(algorithm, pair(), ONES, None, ONES * 0)
    assert targets.return_BT is not None
    assert targets.return_BT.tolist() == [[0, pytest.approx(0.95), 1], [0, 0, 0]]
    value_BT = torch.tensor([[9, 0.9, 0.9], [9, 0, 9]])
    _, figures = loss(algorithm, targets, ONES, None, value_BT)
    assert float(figures["value"]) == pytest.approx((0.75**2 + 0.8**2) / 2 / 3)


@given(cases())
def test_ppo_whitens_its_advantages_and_not_its_returns(case: Case) -> None:
    targets, mask_BT = prepared(ALGORITHMS["ppo"], case), case.batch.mask_BT
    reward_BT = rewards(ALGORITHMS["ppo"], case.batch, case.old_BT, case.reference_BT)
    advantage_BT, return_BT = gae(reward_BT, case.value_BT, mask_BT)
    assert torch.allclose(targets.advantage_BT, whiten(advantage_BT, mask_BT))
    assert targets.return_BT is not None
    assert torch.allclose(targets.return_BT, return_BT)


def test_the_entropy_bonus_lowers_the_loss() -> None:
    """By the mean over own tokens, 2, 3 and 7, times the coefficient."""
    algorithm, entropy_BT = replace(ALGORITHMS["dr_grpo"], entropy=0.5), torch.tensor([[9.0, 2, 3], [9, 7, 9]])
    total, figures = loss(algorithm, prepare(algorithm, pair(), ONES), ONES, entropy_BT)
    assert float(figures["entropy"]) == 4
    assert float(total) == pytest.approx(float(figures["policy"]) - 2)


@given(cases(), st.floats(0.1, 3))
def test_the_correction_multiplies_the_policys_loss_alone(case: Case, cap: float) -> None:
    assert case.batch.sampled_BT is not None
    algorithm = replace(ALGORITHMS["grpo"], cap=cap)
    targets, without = prepared(algorithm, case), prepared(replace(algorithm, cap=None), case)
    expected_BT = (case.old_BT - case.batch.sampled_BT).exp().clamp(max=cap)
    assert torch.allclose(targets.correction_BT[targets.mask_BT], expected_BT[targets.mask_BT])
    assert bool((without.correction_BT == 1).all())
    same = replace(case, batch=replace(case.batch, sampled_BT=case.old_BT))
    on_policy = prepared(replace(algorithm, cap=1.0), same)
    figures = [lost(algorithm, case, which)[1] for which in (on_policy, without, targets)]
    assert torch.allclose(figures[0]["policy"], figures[1]["policy"])
    assert torch.equal(figures[1]["reference"], figures[2]["reference"])


def test_outputs_that_were_cut_off_can_be_left_out() -> None:
    algorithm = replace(ALGORITHMS["dr_grpo"], cut=False)
    targets = prepare(algorithm, pair(), ONES)
    assert targets.weight_BT.tolist() == [[0, 1 / 8, 1 / 8], [0, 0, 0]]
    assert targets.advantage_BT[0, 1] == 0.5  # the baseline still knows them
    with pytest.raises(ValueError, match="every sequence was cut off"):
        prepare(algorithm, pair(ended=[False, False]), ONES)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("grpo", (), "KL coefficient of 0.04 needs what is not there: pass reference_BT, or set it to 0"),
        ("ppo", (ONES,), "a critic needs what is not there: pass value_BT"),
        ("grpo", (ONES[:, :2],), "reference_BT is of shape \\[2, 2\\]"),
    ],
)
def test_what_is_missing_is_named(name: str, arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(ALGORITHMS[name], pair(), ONES, *arguments)


def test_what_is_missing_from_the_loss_or_the_engine_is_named() -> None:
    with pytest.raises(ValueError, match="truncated importance sampling needs what is not there"):
        prepare(ALGORITHMS["dr_grpo"], pair(logprobs=None), ONES)
    algorithm = replace(ALGORITHMS["dr_grpo"], entropy=0.1)
    with pytest.raises(ValueError, match="entropy_BT"):
        loss(algorithm, prepare(algorithm, pair(), ONES), ONES)
    with pytest.raises(ValueError, match="value_BT"):
        loss(ALGORITHMS["ppo"], prepare(ALGORITHMS["ppo"], pair(), ONES, ONES, ONES), ONES)


def test_long_outputs_are_punished_as_in_the_paper() -> None:
    """Limit 20, cache 4: nothing up to 16, then a quarter for each token, -1 at 20 and never less."""
    found = overlong(torch.tensor([1, 16, 17, 19, 20, 25]), 20, 4)
    assert found.tolist() == [0, 0, -0.25, -0.75, -1, -1]
    for cache in (0, 21):
        with pytest.raises(ValueError, match="must lie between 0 and the limit"):
            overlong(torch.tensor([1]), 20, cache)


def test_dynamic_sampling_drops_groups_of_equal_reward_and_asks_for_more() -> None:
    same, other = pair(rewards=[1.0, 1.0]), pair()
    assert refill([], 2) == (None, 2)
    assert refill([same], 2) == (None, 2)
    batch, missing = refill([same, other, same], 2)
    assert batch is not None
    assert (batch.groups, missing) == (1, 1)
    batch, missing = refill([same, other, same, join([other, other])], 2)
    assert batch is not None
    assert (batch.groups, missing, batch.reward_B.tolist()) == (2, 0, [1, 0, 1, 0])


@given(st.lists(cases(), min_size=1, max_size=3), st.integers(1, 9))
def test_dynamic_sampling_never_gives_more_than_wanted_and_counts_what_is_missing(
    found: list[Case], wanted: int
) -> None:
    batch, missing = refill([case.batch for case in found], wanted)
    assert (batch.groups if batch else 0) + missing == wanted
    if batch:
        assert bool(varied(batch.reward_B, batch.group_B).all())


@EVERY
def test_every_algorithm_raises_the_reward(name: str) -> None:
    """A policy of one table of logits, 4 places of 5 symbols, reward the share of places that hold the right one."""
    torch.manual_seed(0)
    algorithm, target_T = replace(ALGORITHMS[name], overlong=0.0), torch.tensor([3, 1, 4, 2])
    logits_TV, value_T = torch.zeros(4, 5).requires_grad_(), torch.zeros(5).requires_grad_()
    optimiser, reward = torch.optim.Adam([logits_TV, value_T], lr=0.1), 0.0
    for _ in range(60):
        policy = torch.distributions.Categorical(logits=logits_TV.detach())
        output_BT = policy.sample((32,))
        reward_B = (output_BT == target_T).float().mean(-1)
        reward = float(reward_B.mean())
        batch = build(
            [[0]] * 32, output_BT.tolist(), policy.log_prob(output_BT).tolist(), reward_B.tolist(),
            [row // 4 for row in range(32)], ended=[True] * 32, limit=4,
        )  # fmt: skip
        assert batch.sampled_BT is not None
        targets = prepare(algorithm, batch, batch.sampled_BT, batch.sampled_BT, value_T.detach().expand(32, 5))
        log_p_TV = logits_TV.log_softmax(-1)
        logp_BT = torch.nn.functional.pad(log_p_TV[torch.arange(4), output_BT], (1, 0))
        optimiser.zero_grad()
        loss(algorithm, targets, logp_BT, None, value_T.expand(32, 5))[0].backward()
        optimiser.step()
    assert reward > 0.9

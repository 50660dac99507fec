"""Losses against cases worked by hand, their gradients, and what must hold for all of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.trainers.cases import Case, cases, spoilt
from trainers import losses
from trainers.losses import clipped, correction, mismatch, outside, value_loss


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


MASK_BT = torch.tensor([[False, True, True, True], [False, True, False, False]])


def test_weights_by_hand() -> None:
    third, sixth = 1 / 3, 1 / 6
    token = losses.token_weights(MASK_BT, 5)
    sequence, constant = losses.sequence_weights(MASK_BT, 5), losses.constant_weights(MASK_BT, 5)
    assert token.tolist() == [[0, 0.25, 0.25, 0.25], [0, 0.25, 0, 0]]
    assert sequence.flatten().tolist() == pytest.approx([0, sixth, sixth, sixth, 0, 0.5, 0, 0])
    assert constant.flatten().tolist() == pytest.approx([0, 0.1, 0.1, 0.1, 0, 0.1, 0, 0])
    assert float(sequence[0].sum()) == pytest.approx(third * 1.5)


@pytest.mark.parametrize("name", losses.WEIGHTS)
def test_an_empty_row_weighs_nothing_and_an_empty_batch_is_refused(name: str) -> None:
    weights = losses.WEIGHTS[name]
    part = MASK_BT & torch.tensor([[True], [False]])
    assert not weights(part, 5)[1].any()
    assert bool(weights(part, 5).isfinite().all())
    with pytest.raises(ValueError, match="no token to learn from"):
        weights(torch.zeros_like(MASK_BT), 5)


def test_an_empty_row_still_counts_among_the_sequences() -> None:
    part = MASK_BT & torch.tensor([[True], [False]])
    assert float(losses.sequence_weights(part, 5).sum()) == pytest.approx(0.5)
    assert float(losses.constant_weights(part, 5).sum()) == pytest.approx(3 / 10)


@given(cases(whole=True))
def test_with_equal_lengths_tokens_and_sequences_weigh_the_same(case: Case) -> None:
    mask_BT, count = case.batch.mask_BT, int(case.batch.own_B[0])
    token, sequence = losses.token_weights(mask_BT, 8), losses.sequence_weights(mask_BT, 8)
    assert torch.allclose(token, sequence)
    assert torch.allclose(losses.constant_weights(mask_BT, count), token)


def test_ratios_by_hand() -> None:
    new_BT, old_BT = of(9, -1, -2, -3, 9, -1, 9, 9).view(2, 4), of(9, -2, -2, -2, 9, -4, 9, 9).view(2, 4)
    assert losses.token_ratio(new_BT, old_BT, MASK_BT).tolist() == [[0, 1, 0, -1], [0, 3, 0, 0]]
    new_BT[0, 1] = 0.5
    assert losses.sequence_ratio(new_BT, old_BT, MASK_BT).tolist() == [[0, 1.5, 1.5, 1.5], [0, 3, 0, 0]]


def test_the_clip_by_hand() -> None:
    """Ratios 0.5, 1 and 1.5, clipped to 0.8 … 1.28, for advantages 2 and -2."""
    ratio = of(0.5, 1, 1.5)
    assert clipped(ratio, of(2), low=0.2, high=0.28).tolist() == pytest.approx([-1, -2, -2.56])
    assert clipped(ratio, of(-2), low=0.2, high=0.28).tolist() == pytest.approx([1.6, 2, 3])
    assert outside(ratio, of(2), 0.2, 0.28).tolist() == [0, 0, 1]
    assert outside(ratio, of(-2), 0.2, 0.28).tolist() == [1, 0, 0]
    assert outside(ratio, of(0), 0.2, 0.28).tolist() == [0, 0, 0]


@given(cases(), st.floats(0.05, 0.5), st.floats(0.05, 0.5))
def test_the_clip_takes_the_gradient_away_where_it_says(case: Case, low: float, high: float) -> None:
    advantage_BT, ratio_BT = case.value_BT, (case.new_BT - case.old_BT).exp().requires_grad_()
    (gradient_BT,) = torch.autograd.grad(clipped(ratio_BT, advantage_BT, low, high).sum(), ratio_BT)
    away_BT = outside(ratio_BT, advantage_BT, low, high).bool()
    assert torch.equal(gradient_BT, torch.where(away_BT, 0, -advantage_BT))


@given(cases(), st.floats(0.05, 0.5))
def test_the_clip_is_never_below_the_plain_loss(case: Case, clip: float) -> None:
    ratio_BT = (case.new_BT - case.old_BT).exp()
    assert (clipped(ratio_BT, case.value_BT, clip, clip) >= -ratio_BT * case.value_BT).all()


def test_kl_estimators_by_hand() -> None:
    x = of(math.log(2), -math.log(2))
    assert losses.k1(x).tolist() == pytest.approx([math.log(2), -math.log(2)])
    assert losses.k2(x).tolist() == pytest.approx([math.log(2) ** 2 / 2] * 2)
    assert losses.k3(x).tolist() == pytest.approx([0.5 - 1 + math.log(2), 2 - 1 - math.log(2)])


@given(st.integers(0, 10**6), st.integers(2, 20))
def test_kl_estimators_over_a_whole_vocabulary(seed: int, vocabulary: int) -> None:
    """Exact means over p: k1 and k3 are KL(p, q), and the gradient of the mean of k2 is that of the KL."""
    random = torch.Generator().manual_seed(seed)
    logits, other = (torch.randn(vocabulary, generator=random, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    p, kl = log_p.exp().detach(), torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=log_p), torch.distributions.Categorical(logits=log_q)
    )  # fmt: skip
    for estimator in (losses.k1, losses.k3):
        assert torch.allclose((p * estimator(log_p - log_q)).sum(), kl, atol=1e-12)
    (expected,) = torch.autograd.grad(kl, logits, retain_graph=True)
    (by_k2,) = torch.autograd.grad((p * losses.k2(log_p - log_q)).sum(), logits, retain_graph=True)
    (by_k1,) = torch.autograd.grad((p * losses.k1(log_p - log_q)).sum(), logits)
    assert torch.allclose(by_k2, expected, atol=1e-12)
    assert torch.allclose(by_k1, torch.zeros_like(by_k1), atol=1e-12)


@given(cases())
def test_k3_is_never_negative(case: Case) -> None:
    assert (losses.k3(case.new_BT - case.reference_BT) >= -1e-12).all()


def test_the_value_loss_by_hand() -> None:
    """Return 1, old value 0, clip 0.2. At 0.1 nothing is clipped; at 0.9 the clipped value 0.2 is further off; at 1.5
    too (0.8 against 0.5); at 2 the value itself is (1 against 0.8)."""
    found = value_loss(of(0.1, 0.9, 1.5, 2), of(0), of(1), clip=0.2)
    assert found.tolist() == pytest.approx([0.81 / 2, 0.64 / 2, 0.64 / 2, 0.5])


@given(cases(), st.floats(0.01, 3))
def test_the_clipped_value_loss_is_never_below_the_plain_one(case: Case, clip: float) -> None:
    plain_BT = (case.value_BT - case.entropy_BT).square() / 2
    assert (value_loss(case.value_BT, case.old_BT, case.entropy_BT, clip) >= plain_BT).all()
    assert torch.allclose(value_loss(case.value_BT, case.old_BT, case.entropy_BT, 1e9), plain_BT)


@given(cases(), st.floats(0.5, 4))
def test_corrections_are_capped_and_constant(case: Case, cap: float) -> None:
    log_ratio_BT = (case.old_BT - case.new_BT).requires_grad_()
    found_BT = correction(log_ratio_BT, cap)
    assert torch.allclose(found_BT, log_ratio_BT.exp().clamp(max=cap))
    assert not found_BT.requires_grad


@pytest.mark.parametrize("ratio", losses.RATIOS)
@given(case=cases(), junk=st.sampled_from([float("nan"), float("inf"), float("-inf"), 3.0]))
def test_what_stands_off_the_mask_changes_neither_loss_nor_gradient(ratio: str, case: Case, junk: float) -> None:
    mask_BT, found = case.batch.mask_BT, []
    for spoil in (False, True):
        new_BT, old_BT = ((spoilt(x, mask_BT, junk) if spoil else x.clone()) for x in (case.new_BT, case.old_BT))
        new_BT.requires_grad_()
        loss = losses.k3(losses.RATIOS[ratio](new_BT, old_BT, mask_BT)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        assert new_BT.grad is not None
        assert not new_BT.grad[~mask_BT].any()
        found.append((loss.detach(), new_BT.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("ratio", losses.RATIOS)
def test_no_ratio_overflows(ratio: str) -> None:
    found_BT = losses.RATIOS[ratio](MASK_BT * 0.0, MASK_BT * -9999.0, MASK_BT)
    assert bool(clipped(found_BT.exp(), MASK_BT * -1.0).isfinite().all())


@pytest.mark.parametrize("ratio", losses.RATIOS)
@given(case=cases())
def test_gradients(ratio: str, case: Case) -> None:
    """Against differences, where no clip has its corner within a difference's reach."""
    mask_BT, advantage_BT = case.batch.mask_BT, case.value_BT
    new_BT = case.new_BT.clone().requires_grad_()

    def policy(new_BT: Tensor) -> Tensor:
        return clipped(losses.RATIOS[ratio](new_BT, case.old_BT, mask_BT).exp(), advantage_BT, 0.2, 0.28)

    def kl(new_BT: Tensor) -> tuple[Tensor, ...]:
        log_ratio_BT = losses.token_ratio(new_BT, case.reference_BT, mask_BT)
        return tuple(estimator(log_ratio_BT) for estimator in losses.KL.values())

    def value(new_BT: Tensor) -> Tensor:
        return value_loss(new_BT, case.old_BT, case.reference_BT, 0.3)

    assert torch.autograd.gradcheck(kl, new_BT)
    corners = losses.RATIOS[ratio](case.new_BT, case.old_BT, mask_BT).exp()
    if min(float((corners - corner).abs().min()) for corner in (0.8, 1.28)) > 1e-4:
        assert torch.autograd.gradcheck(policy, new_BT)
    moved = (case.new_BT - case.old_BT).abs() - 0.3
    level = (case.new_BT - case.reference_BT).abs() - (case.old_BT - case.reference_BT + 0.3).abs()
    other = (case.new_BT - case.reference_BT).abs() - (case.old_BT - case.reference_BT - 0.3).abs()
    if min(float(gap.abs().min()) for gap in (moved, level, other)) > 1e-4:
        assert torch.autograd.gradcheck(value, new_BT)


def test_mismatch_by_hand() -> None:
    """The engine says log 1/2 and log 1/4 where the trainer says log 1/4 of both; what is off the mask is no matter."""
    old_BT, sampled_BT = of(math.log(0.25), math.log(0.25), 5)[None], of(math.log(0.5), math.log(0.25), 9)[None]
    found = mismatch(old_BT, sampled_BT, torch.tensor([[True, True, False]]))
    assert found == pytest.approx({"mean": math.log(2) / 2, "max": math.log(2), "kl": (0.5 - 1 + math.log(2)) / 2})

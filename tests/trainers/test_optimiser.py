"""AdamW over masters, and the gradient's norm."""

import pytest
import torch

from trainers.optimiser import AdamW, Optimiser


def masters() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    found = {"matrix": torch.randn(3, 4, generator=random), "bias": torch.randn(5, generator=random)}
    for tensor in found.values():
        tensor.grad = torch.randn(tensor.shape, generator=random)
    return found


def test_a_step_is_adams_by_hand() -> None:
    found, settings = masters(), AdamW(rate=0.1, decay=0.5, clip=0.0)
    before = {name: tensor.clone() for name, tensor in found.items()}
    Optimiser(found, settings).step()
    for name, tensor in found.items():
        assert tensor.grad is not None
        decayed = before[name] * (1 - 0.1 * (0.5 if name == "matrix" else 0.0))
        torch.testing.assert_close(tensor, decayed - 0.1 * tensor.grad / (tensor.grad.abs() + 1e-8))


@pytest.mark.parametrize("clip", [0.0, 0.5, 100.0])
def test_the_norm_is_that_of_the_whole_gradient_before_it_is_clipped(clip: float) -> None:
    found = masters()
    whole = torch.cat([tensor.grad.flatten() for tensor in found.values() if tensor.grad is not None])
    norm = Optimiser(found, AdamW(clip=clip)).step()
    assert norm == pytest.approx(float(whole.norm()), rel=1e-6)
    after = torch.cat([tensor.grad.flatten() for tensor in found.values() if tensor.grad is not None])
    assert float(after.norm()) == pytest.approx(clip if clip == 0.5 else norm, rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_steps_nothing(bad: float) -> None:
    found = masters()
    before = {name: tensor.clone() for name, tensor in found.items()}
    assert found["bias"].grad is not None
    found["bias"].grad[2] = bad
    with pytest.raises(FloatingPointError, match="step 0 is not finite"):
        Optimiser(found, AdamW()).step()
    assert all(torch.equal(before[name], tensor) for name, tensor in found.items())


def test_it_goes_on_from_its_moments() -> None:
    first, second = masters(), masters()
    one, other = Optimiser(first, AdamW(rate=0.1)), Optimiser(second, AdamW(rate=0.1))
    assert one.moments() == {}
    one.step()
    for name, tensor in second.items():
        tensor.copy_(first[name])
        tensor.grad = first[name].grad.clone()  # type: ignore[union-attr]
    other.resume(one.moments(), one.steps)
    one.step()
    other.step()
    assert all(torch.equal(first[name], second[name]) for name in first)

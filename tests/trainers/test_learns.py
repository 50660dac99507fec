"""A tiny random model learns the copy task, by each algorithm: from under half right behind its warm-up to 0.9."""

from dataclasses import replace

import pytest

from tests.trainers.copying import LEARNT, LORA, learnt, warmed
from trainers.algorithms import ALGORITHMS
from trainers.optimiser import AdamW

OTHERS = ("ppo", "rloo", "dapo", "dr_grpo", "reinforce_pp")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return warmed(tmp_path_factory.mktemp("copying"), ALGORITHMS["grpo"])


@pytest.mark.parametrize("name", ["grpo", *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)])
def test_it_learns_to_copy(name: str, warm: str) -> None:
    found = learnt(warm, name, LEARNT)
    assert found[0] < 0.5
    assert found[-1] >= 0.9, found


def test_an_adapter_learns_to_copy(warm: str) -> None:
    found = learnt(warm, "grpo", LORA)
    assert found[0] < 0.5
    assert found[-1] >= 0.9, found


def test_nothing_is_learnt_at_a_rate_of_zero(warm: str) -> None:
    """The control: what the others show is the trainer's doing."""
    found = learnt(warm, "grpo", replace(LEARNT, optimiser=AdamW(rate=0.0)), steps=10)
    assert found[-1] == pytest.approx(found[0], abs=0.1)

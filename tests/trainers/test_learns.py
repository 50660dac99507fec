"""A tiny random model learns the copy task, by each algorithm: from under half right behind its warm-up to 0.9."""

from dataclasses import replace

import pytest

from tests.trainers.copying import RATE, SETTINGS, Course, warmed
from trainers.algorithms import ALGORITHMS
from trainers.lora import Lora
from trainers.optimiser import AdamW
from trainers.settings import Settings
from trainers.trainer import Trainer

STEPS = 80
OTHERS = ("ppo", "rloo", "dapo", "dr_grpo", "reinforce_pp")
LEARNT = replace(SETTINGS, optimiser=AdamW(rate=RATE, betas=(0.9, 0.95)))
LORA = replace(LEARNT, lora=Lora(rank=16, alpha=32), optimiser=AdamW(rate=5e-3, betas=(0.9, 0.95)))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return warmed(tmp_path_factory.mktemp("copying"), ALGORITHMS["grpo"])


def learnt(path: str, name: str, settings: Settings, steps: int = STEPS) -> list[float]:
    """Held-out rewards before and between steps, up to the first of at least 0.9."""
    course = Course(Trainer(path, ALGORITHMS[name], settings))
    found = [course.held_out()]
    for number in range(steps):
        figures = course.step(number)
        assert figures["mismatch_max"] < 1e-3
        if number % 10 == 9:
            found.append(course.held_out())
            if found[-1] >= 0.9:
                break
    return found


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

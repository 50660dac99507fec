"""Offloading frees what only training needs, and back it is as if nothing had been."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainers.small import batch, folder
from tests.trainers.test_model import told
from trainers.algorithms import ALGORITHMS
from trainers.lora import Lora
from trainers.offload import Offload
from trainers.optimiser import AdamW
from trainers.settings import Settings
from trainers.trainer import Trainer

SMALL = Settings(dtype="float32", budget=60, optimiser=AdamW(rate=1e-2), critic=AdamW(rate=1e-2))
LORA = Lora(rank=4, alpha=8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", [None, LORA, replace(LORA, merged=False)])
def test_away_and_back_changes_nothing(dtype: str, adapter: Lora | None, tmp_path: Path) -> None:
    settings = replace(SMALL, dtype=dtype, lora=adapter)
    stayed, went = (Trainer(folder(tmp_path), ALGORITHMS["ppo"], settings) for _ in range(2))
    for seed in range(3):
        went.offload()
        weights = went.weights()[0].clone()
        went.onload()
        assert torch.equal(went.weights()[0], weights)
        assert told(went.train(batch(seed))) == told(stayed.train(batch(seed)))
        assert torch.equal(went.weights()[0], stayed.weights()[0])


def test_what_is_moved_dropped_and_kept(tmp_path: Path) -> None:
    trainer = Trainer(folder(tmp_path), ALGORITHMS["grpo"], replace(SMALL, dtype="bfloat16"))
    assert trainer.reference
    trainer.train(batch())
    weights = sum(slot.bytes for slot in trainer.weights()[1])
    found = trainer.offload()
    assert found["kept"] == pytest.approx(weights, rel=0.01)
    assert found["dropped"] == pytest.approx(2 * weights, rel=0.01)  # gradients
    assert found["moved"] == pytest.approx((2 + 2 + 2 + 1) * weights, rel=0.01)  # masters, two moments, the reference
    assert found["seconds"] > 0
    for tensor in (*trainer.policy.held.masters.values(), *trainer.policy.optimiser.moments().values()):
        assert tensor.untyped_storage().nbytes() == 0
    assert all(p.untyped_storage().nbytes() for p in trainer.policy.network.parameters())
    with pytest.raises(RuntimeError, match="offloaded already"):
        trainer.offload()
    with pytest.raises(RuntimeError, match="bring it back first"):
        trainer.train(batch())
    assert trainer.onload()["moved"] == found["moved"]


def test_an_adapter_that_is_sent_alone_stays(tmp_path: Path) -> None:
    settings = replace(SMALL, dtype="bfloat16", lora=replace(LORA, merged=False))
    trainer = Trainer(folder(tmp_path), ALGORITHMS["grpo"], settings)
    trainer.train(batch())
    before = {name: one.clone() for name, one in trainer.policy.adapter().items()}
    logprobs_BT, _ = trainer.logprobs(batch())
    trainer.offload()
    assert before.keys() and all(torch.equal(one, before[name]) for name, one in trainer.policy.adapter().items())
    assert torch.equal(trainer.logprobs(batch())[0], logprobs_BT)


def test_views_of_one_storage_move_once() -> None:
    whole = torch.arange(100.0)
    away = Offload(torch.device("cpu"))
    assert away.out([whole[:50], whole[20:], whole.view(10, 10)], []) == {"moved": 400, "dropped": 0}
    assert whole.untyped_storage().nbytes() == 0
    away.back()
    assert torch.equal(whole, torch.arange(100.0))
    away.close()


def test_the_dropped_come_back_as_zeros() -> None:
    gone = torch.ones(10)
    away = Offload(torch.device("cpu"))
    away.out([], [gone])
    assert away.away
    away.back()
    assert not gone.any() and not away.away

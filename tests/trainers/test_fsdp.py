"""Two ranks say and learn what one does, on gloo."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.worker import flat as receivers
from tests.trainers.sharded import CASES, STEPS, trained
from tests.trainers.small import batch, folder
from trainers import fsdp
from trainers.algorithms import ALGORITHMS
from trainers.trainer import Trainer

RANKS = 2
Alone = Callable[[str], tuple[Trainer, torch.Tensor]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each rank wrote of each case."""
    at = tmp_path_factory.mktemp("ranks")
    for case in CASES.values():
        folder(at / case.kind, case.kind)
    command, environment = [sys.executable, "-m", "tests.trainers.sharded"], os.environ | {"OMP_NUM_THREADS": "1"}
    found = [subprocess.Popen([*command, str(rank), str(RANKS), str(at)], env=environment) for rank in range(RANKS)]
    try:
        assert [rank.wait(timeout=400) for rank in found] == [0] * RANKS
    finally:
        for rank in found:
            rank.kill()
    return at


def told(ranks: Path, name: str) -> list[dict[str, torch.Tensor]]:
    return [load_file(ranks / f"{name}-{rank}.safetensors") for rank in range(RANKS)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    at, made = tmp_path_factory.mktemp("alone"), dict[str, tuple[Trainer, torch.Tensor]]()

    def get(name: str) -> tuple[Trainer, torch.Tensor]:
        if name not in made:
            made[name] = trained(CASES[name], folder(at / name, CASES[name].kind))
        return made[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_they_have_the_figures_of_one(name: str, ranks: Path, alone: Alone) -> None:
    expected, near = alone(name)[1], CASES[name].near
    assert len(expected) == STEPS and expected.shape[1] > 8
    first, second = (rank["figures"] for rank in told(ranks, name))
    torch.testing.assert_close(first, expected, atol=near, rtol=near)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", CASES)
def test_they_have_the_weights_of_one(name: str, ranks: Path, alone: Alone) -> None:
    for rank in told(ranks, name):
        for key, tensor in alone(name)[0].policy.tensors().items():
            torch.testing.assert_close(rank[f"whole.{key}"], tensor, atol=CASES[name].near, rtol=0.01)


@pytest.mark.parametrize("name", CASES)
def test_a_receiver_puts_their_shares_together(name: str, ranks: Path, alone: Alone) -> None:
    slots, found, segments = alone(name)[0].weights()[1], told(ranks, name), []
    for rank in found:
        pieces = [receivers.Piece(*piece) for piece in rank["pieces"].tolist()]
        assert rank["buffer"].numel() == receivers.held(pieces)
        segments += receivers.segments(pieces, 0, rank["buffer"])
    for slot in (receivers.Slot(*one) for one in slots):
        flat = torch.zeros(slot.bytes, dtype=torch.uint8)
        for begin, part in receivers.overlaps(segments, slot):
            flat[begin : begin + part.numel()] = part
        whole = found[0][f"whole.{slot.name}"]
        assert torch.equal(flat.view(whole.dtype).view(slot.shape), whole)
    parts = [rank["buffer"].numel() for rank in found]
    assert sum(parts) == pytest.approx(slots[-1].offset + slots[-1].bytes, rel=0.1)


@pytest.mark.parametrize("name", CASES)
def test_they_save_one_checkpoint(name: str, ranks: Path) -> None:
    case = CASES[name]
    again = Trainer(str(ranks / f"{name}-saved"), ALGORITHMS[case.algorithm], case.settings)
    expected = told(ranks, name)[0]
    assert all(torch.equal(one, expected[f"whole.{key}"]) for key, one in again.policy.tensors().items())
    assert {f"trainer-{rank}.safetensors" for rank in range(RANKS)} <= {
        file.name for file in (ranks / f"{name}-saved").iterdir()
    }


def test_they_write_one_adapter(ranks: Path, alone: Alone) -> None:
    found = load_file(ranks / "lora-adapter" / "adapter_model.safetensors")
    expected = alone("lora")[0].policy.adapter()
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, atol=2e-5, rtol=0.01)


def test_the_losses_hang_on_the_data(tmp_path: Path, alone: Alone) -> None:
    """What the others compare is no constant."""
    figures = alone("dense")[1]
    assert not torch.allclose(figures[0], figures[1], rtol=1e-3)
    assert not torch.equal(batch(0).reward_B, batch(1).reward_B)


@pytest.mark.parametrize(
    ("rank", "count", "message"),
    [(0, 5, "5 ranks on 4 GPUs: ask for at most 4"), (2, 2, "rank 2 of 2"), (-1, 2, "rank -1 of 2")],
)
def test_ranks_that_cannot_be_are_refused(rank: int, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fsdp.check(rank, count, 4, "GPUs")


def test_more_ranks_than_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1000 ranks on \d+ cores"):
        fsdp.join(0, 1000, "file:///nowhere", "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="1 ranks on 0 GPUs"):
            fsdp.join(0, 1, "file:///nowhere", "cuda")

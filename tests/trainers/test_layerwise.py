"""A model that is filled a layer at a time is the one that is loaded whole."""

from pathlib import Path

import pytest
import torch

from tests.trainers.small import KINDS, folder
from trainers import model
from trainers.algorithms import ALGORITHMS
from trainers.layerwise import Filler
from trainers.settings import Settings
from trainers.trainer import Trainer

CPU = torch.device("cpu")


def trainer(path: str, dtype: str = "float32", layerwise: bool = True, seed: int = 0) -> Trainer:
    return Trainer(path, ALGORITHMS["ppo"], Settings(dtype=dtype, layerwise=layerwise, seed=seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_is_read_as_it_is(kind: str, tied: bool, dtype: str, tmp_path: Path) -> None:
    trainer(folder(tmp_path / "made", kind, tied), layerwise=False).save(str(tmp_path / "saved"))
    whole, parts = (trainer(str(tmp_path / "saved"), dtype, layerwise) for layerwise in (False, True))
    for one, other in zip(whole._learners(), parts._learners(), strict=True):
        theirs = other.tensors()
        for name, tensor in one.tensors().items():
            assert torch.equal(tensor, theirs[name]), name
        assert all(torch.equal(master, other.held.masters[name]) for name, master in one.held.masters.items())


def test_random_weights_are_spread_as_a_model_begins(tmp_path: Path) -> None:
    path = folder(tmp_path, "qwen2")
    found, again, other = (trainer(path, seed=seed).policy.tensors() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, again[name]) for name, tensor in found.items())
    for name, tensor in found.items():
        if name.endswith("norm.weight"):
            assert torch.equal(tensor, torch.ones_like(tensor))
        elif name.endswith("bias"):
            assert not tensor.any()
        else:
            assert float(tensor.std()) == pytest.approx(0.02, rel=0.2), name
            assert not torch.equal(tensor, other[name])


def test_a_checkpoint_of_another_kind_is_no_folder_without_weights(tmp_path: Path) -> None:
    path = folder(tmp_path, "qwen2")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(
        ValueError, match=r"holds neither model\.safetensors nor .*: it cannot be read a layer at a time"
    ):
        trainer(path)


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    trainer(folder(tmp_path / "made"), layerwise=False).save(str(tmp_path / "saved"))
    hf = model.load(str(tmp_path / "saved"), torch.float32, CPU, empty=True)
    filler = Filler(hf, str(tmp_path / "saved"), torch.float32, 0)
    del filler.files["model.norm.weight"]
    with pytest.raises(ValueError, match=r"the checkpoint has no tensor model\.norm\.weight"):
        filler.fill(hf, CPU, torch.float32)

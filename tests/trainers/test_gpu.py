"""What only a GPU can show; skipped without one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainers.small import batch, folder
from tests.trainers.test_model import told
from trainers import attention
from trainers.algorithms import ALGORITHMS
from trainers.batch import Batch
from trainers.optimiser import AdamW
from trainers.settings import Settings
from trainers.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SMALL = Settings(dtype="bfloat16", budget=512, optimiser=AdamW(rate=1e-3), critic=AdamW(rate=1e-3))
NEAR = {"rel": 0.05, "abs": 2e-3}


def trainer(path: str, **changes: object) -> Trainer:
    return Trainer(path, ALGORITHMS["ppo"], replace(SMALL, **changes), "cuda")  # type: ignore[arg-type]


def given(seed: int = 0) -> Batch:
    return batch(seed, prompts=16)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("way", [attention.VARLEN, "flex_attention"])
def test_packed_attention_is_that_of_padded_rows(kind: str, way: str, tmp_path: Path) -> None:
    packed = trainer(folder(tmp_path, kind, head_dim=32), pack=True, attention=way)
    padded = trainer(folder(tmp_path, kind, head_dim=32), pack=False)
    for seed in range(3):
        first, second = (told(one.train(given(seed))) for one in (packed, padded))
        first, second = ({k: v for k, v in one.items() if not k.endswith("_bytes")} for one in (first, second))
        assert first == pytest.approx(second, **NEAR)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_say_the_same(checkpointing: bool, tmp_path: Path) -> None:
    plain, fast = (
        trainer(folder(tmp_path, head_dim=32), compiled=on, checkpointing=checkpointing and on) for on in (False, True)
    )  # fmt: skip
    for seed in range(3):
        first, second = (told(one.train(given(seed))) for one in (plain, fast))
        first, second = ({k: v for k, v in one.items() if not k.endswith("_bytes")} for one in (first, second))
        assert second == pytest.approx(first, **NEAR)


def test_offloading_frees_the_device(tmp_path: Path) -> None:
    stayed, went = trainer(folder(tmp_path, head_dim=32)), trainer(folder(tmp_path, head_dim=32))
    for one in (stayed, went):
        one.train(given())
    before = torch.cuda.memory_allocated()
    found = went.offload()
    freed = before - torch.cuda.memory_allocated()
    assert freed >= found["moved"] + found["dropped"] > 0
    went.onload()
    first, second = (told(one.train(given(1))) for one in (went, stayed))
    assert first["loss"] == pytest.approx(second["loss"], **NEAR)
    went.away.close()


def test_each_phase_has_its_peak(tmp_path: Path) -> None:
    figures = trainer(folder(tmp_path, head_dim=32)).train(given())
    phases = {name.removesuffix("_s") for name in figures if name.endswith("_s")}
    assert phases == {name.removesuffix("_bytes") for name in figures if name.endswith("_bytes")}
    assert figures["forward_backward_bytes"] > figures["logprobs_old_bytes"] / 2 > 0

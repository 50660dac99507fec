"""LoRA: what is merged is what PEFT merges, what is written is what PEFT reads, and what does not fit is refused."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.worker import adapter as harness
from tests.trainers.small import batch, folder
from trainers import lora, model
from trainers.algorithms import ALGORITHMS
from trainers.lora import Lora
from trainers.optimiser import AdamW
from trainers.settings import Settings
from trainers.trainer import Trainer

LORA = Lora(rank=4, alpha=8)
SMALL = Settings(dtype="float32", budget=60, optimiser=AdamW(rate=1e-2), lora=LORA)


def trained(path: str, **changes: object) -> Trainer:
    trainer = Trainer(path, ALGORITHMS["grpo"], replace(SMALL, **changes))  # type: ignore[arg-type]
    for seed in range(3):
        trainer.train(batch(seed))
    return trainer


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-6), ("bfloat16", 4e-3)])
def test_merged_weights_are_those_of_peft(kind: str, dtype: str, near: float, tmp_path: Path) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    trainer = trained(folder(tmp_path, kind), dtype=dtype)
    other = copy.deepcopy(trainer.policy.network.hf).float()
    changed = 0
    for name, module in other.named_modules():
        if isinstance(module, BaseTunerLayer):
            before = module.get_base_layer().weight.clone()
            module.merge()
            ours = trainer.policy.tensors()[f"{name}.weight"].float()
            torch.testing.assert_close(ours, module.get_base_layer().weight, atol=near, rtol=near)
            changed += not torch.equal(ours, before)
    assert changed == 2 * 7


def test_merged_weights_say_what_the_adapter_says(tmp_path: Path) -> None:
    trainer = trained(folder(tmp_path / "model"))
    trainer.save(str(tmp_path / "saved"))
    plain = Trainer(str(tmp_path / "saved"), ALGORITHMS["grpo"], replace(SMALL, lora=None))
    torch.testing.assert_close(plain.logprobs(batch())[0], trainer.logprobs(batch())[0])


def test_a_fresh_adapter_changes_nothing(tmp_path: Path) -> None:
    path = folder(tmp_path)
    plain, fresh = (Trainer(path, ALGORITHMS["grpo"], replace(SMALL, lora=one)) for one in (None, LORA))
    assert torch.equal(plain.weights()[0], fresh.weights()[0])
    assert plain.weights()[1] == fresh.weights()[1]
    torch.testing.assert_close(plain.logprobs(batch())[0], fresh.logprobs(batch())[0])


def test_only_the_adapter_learns(tmp_path: Path) -> None:
    path = folder(tmp_path)
    before = dict(Trainer(path, ALGORITHMS["grpo"], SMALL).policy.tensors())
    after = trained(path).policy.tensors()
    assert {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])} == set(lora.TARGETS)


def test_without_merging_the_base_is_what_is_sent(tmp_path: Path) -> None:
    path, apart = folder(tmp_path), replace(LORA, merged=False)
    before = Trainer(path, ALGORITHMS["grpo"], SMALL).weights()[0]
    trainer = trained(path, lora=apart)
    assert torch.equal(before, trainer.weights()[0])
    base = [p for n, p in trainer.policy.network.named_parameters() if "lora_" not in n]
    assert {p.untyped_storage().data_ptr() for p in base} == {trainer.weights()[0].untyped_storage().data_ptr()}


def test_the_reference_is_the_model_without_it(tmp_path: Path) -> None:
    path = folder(tmp_path)
    expected = Trainer(path, ALGORITHMS["grpo"], replace(SMALL, lora=None)).logprobs(batch())[0]
    trainer = trained(path)
    assert trainer.reference is None
    found = trainer.reference_logprobs(batch())
    assert found is not None
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(trainer.logprobs(batch())[0], expected)
    before = trainer.weights()[0].clone()
    trainer.train(batch())
    assert not torch.equal(before, trainer.weights()[0])
    with pytest.raises(ValueError, match="without its adapter"):
        trainer.anchor()


def test_what_is_written_is_what_peft_reads(tmp_path: Path) -> None:
    from peft import PeftModel

    trainer = trained(folder(tmp_path / "model"))
    trainer.write_adapter(str(tmp_path / "adapter"))
    base = model.load(str(tmp_path / "model"), torch.float32, torch.device("cpu")).eval()
    read = PeftModel.from_pretrained(base, tmp_path / "adapter")
    tokens = batch().tokens_BT[:1]
    torch.testing.assert_close(read(tokens).logits, trainer.policy.network.hf(tokens).logits)


def test_the_folder_is_as_the_harness_writes_it(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trainer = trained(folder(tmp_path / "model"))
    trainer.write_adapter(str(tmp_path / "ours"))
    shapes = [(slot.name, slot.shape) for slot in trainer.weights()[1]]
    made = {name: torch.zeros(shape) for name, shape in harness.shapes(shapes, LORA.rank, LORA.targets)}
    harness.write(made, tmp_path / "theirs", LORA.rank, LORA.targets)
    ours, theirs = (load_file(tmp_path / name / harness.WEIGHTS) for name in ("ours", "theirs"))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    ours, theirs = (json.loads((tmp_path / name / harness.CONFIG).read_text()) for name in ("ours", "theirs"))
    assert ours == theirs
    assert not list(tmp_path.glob("ours/.*"))


def test_it_goes_on_from_a_folder(tmp_path: Path) -> None:
    trainer = trained(folder(tmp_path / "model"))
    trainer.write_adapter(str(tmp_path / "adapter"))
    again = replace(LORA, path=str(tmp_path / "adapter"))
    other = Trainer(str(tmp_path / "model"), ALGORITHMS["grpo"], replace(SMALL, lora=again))
    assert torch.equal(other.weights()[0], trainer.weights()[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("q_proj", "w_proj")}, "no matrix w_proj, but down_proj"),
        ({"rank": 0}, "rank 0"),
        ({"path": "nowhere"}, "holds no adapter_config.json"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    wanted = replace(LORA, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        Trainer(folder(tmp_path), ALGORITHMS["grpo"], replace(SMALL, lora=wanted))


def test_experts_are_no_target(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no matrix gate_proj, up_proj, down_proj"):
        Trainer(folder(tmp_path, "qwen3_moe"), ALGORITHMS["grpo"], SMALL)


def test_another_models_adapter_is_refused(tmp_path: Path) -> None:
    trainer = trained(folder(tmp_path / "model"))
    trainer.write_adapter(str(tmp_path / "adapter"))
    path = Path(folder(tmp_path / "other"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    found = replace(LORA, path=str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=r"does not fit the model: .*down_proj.*and 5 more"):
        Trainer(str(path), ALGORITHMS["grpo"], replace(SMALL, lora=found))
    with pytest.raises(ValueError, match="rank, alpha and targets"):
        Trainer(str(path), ALGORITHMS["grpo"], replace(SMALL, lora=replace(found, rank=2)))


def test_there_is_no_adapter_to_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no adapter"):
        Trainer(folder(tmp_path), ALGORITHMS["grpo"], replace(SMALL, lora=None)).write_adapter(str(tmp_path))

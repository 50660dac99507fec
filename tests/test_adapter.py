"""Which tensors an adapter has: PEFT's names for the weights of a checkpoint that are targets."""

from harness import shapes
from harness.worker import adapter
from harness.worker.options import LORA_TARGETS


def test_an_adapter_has_two_tensors_for_each_target() -> None:
    found = dict(adapter.shapes(shapes.tensors(shapes.SHAPES["tiny-qwen3"]), 8))
    assert len(found) == 2 * len(LORA_TARGETS) * 4
    at = "base_model.model.model.layers.3.mlp.down_proj"
    assert found[f"{at}.lora_A.weight"] == (8, 768)
    assert found[f"{at}.lora_B.weight"] == (256, 8)
    assert not [name for name in found if "embed" in name or "lm_head" in name or "norm" in name]


def test_biases_and_other_modules_are_no_targets() -> None:
    found = dict(adapter.shapes(shapes.tensors(shapes.SHAPES["tiny-qwen2"]), 4, ["q_proj"]))
    assert len(found) == 2 * 4
    assert found["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"] == (256, 4)


def test_each_expert_has_its_own() -> None:
    found = dict(adapter.shapes(shapes.tensors(shapes.SHAPES["tiny-moe"]), 4, ["up_proj"]))
    assert len(found) == 2 * 4 * 8
    assert found["base_model.model.model.layers.1.mlp.experts.7.up_proj.lora_B.weight"] == (128, 4)

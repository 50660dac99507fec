"""Which tensors an adapter has, and by which names an engine that takes adapters loads whole weights."""

from types import SimpleNamespace
from typing import Any

from harness import shapes
from harness.worker import adapter, inside
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


def model(shared: bool, **wrapper: Any) -> Any:
    """A model of one layer that takes adapters, wrapper and layer having the same weight or not."""
    weight = object()
    inner = SimpleNamespace(_parameters={"weight": weight})
    outer = SimpleNamespace(_parameters={"weight": weight} if shared else {}, base_layer=inner, **wrapper)
    return SimpleNamespace(modules=lambda: iter([outer, inner]))


def test_a_wrapped_layer_is_loaded_by_its_own_name() -> None:
    names = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.bias", "model.norm.weight"
    named = [(name, number) for number, name in enumerate(names)]
    assert list(inside.wrapped(model(shared=True), named)) == named
    assert list(inside.wrapped(model(shared=False, load_weights=print), named)) == named
    assert list(inside.wrapped(model(shared=False), named)) == [
        ("model.layers.0.self_attn.q_proj.base_layer.weight", 0),
        ("model.layers.0.mlp.down_proj.base_layer.bias", 1),
        ("model.norm.weight", 2),
    ]

"""Models made without a hub."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from harness import models, shapes
from harness.errors import UserError
from harness.worker.flat import layout


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLBENCH_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("name", [n for n, shape in shapes.SHAPES.items() if shape.weights])
def test_tiny_model_has_every_weight_in_its_shape(name: str) -> None:
    folder = Path(models.find(name).path)
    shape = shapes.SHAPES[name]
    last = f"model.layers.{shape.layers - 1}"
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        names = set(file.keys())
        assert file.get_slice("model.embed_tokens.weight").get_shape() == [shape.vocab, shape.hidden]
        assert file.get_slice(f"{last}.self_attn.k_proj.weight").get_shape() == [128, shape.hidden]
    assert ("model.layers.0.self_attn.q_proj.bias" in names) == (shape.model_type == "qwen2")
    assert ("model.layers.0.self_attn.q_norm.weight" in names) == (shape.model_type in ("qwen3", "qwen3_moe"))
    assert ("model.layers.0.mlp.gate_proj.weight" in names) == (not shape.experts)
    assert (f"{last}.mlp.experts.7.down_proj.weight" in names) == bool(shape.experts)
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"].keys()


def test_a_model_is_made_once_and_named_by_its_content() -> None:
    first = models.made("tiny-llama")
    stamp = (first / "config.json").stat().st_mtime_ns
    assert models.made("tiny-llama") == first
    assert (first / "config.json").stat().st_mtime_ns == stamp
    assert [p.name for p in first.parent.iterdir()] == [first.name]


def test_weights_are_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = (models.made("tiny-qwen3") / "model.safetensors").read_bytes()
    monkeypatch.setenv("ROLLBENCH_HOME", str(tmp_path / "other"))
    assert (models.made("tiny-qwen3") / "model.safetensors").read_bytes() == first


def test_real_shapes_are_for_dummy_weights() -> None:
    model = models.find("Qwen2.5-7B")
    assert model.load_format == "dummy"
    assert not (Path(model.path) / "model.safetensors").exists()
    config = json.loads((Path(model.path) / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["head_dim"]) == (3584, 28, 128)


def test_what_both_engines_fuse_lies_in_one_piece() -> None:
    """Gate and up of one expert behind those of the other, as (experts, 2 * inner, hidden) has them; then all down."""
    shape = shapes.SHAPES["tiny-moe"]
    slots = {slot.name: slot for slot in layout(list(shapes.tensors(shape)), 4)}
    experts = [f"model.layers.2.mlp.experts.{i}." for i in range(shape.experts)]
    first = [f"{expert}{part}_proj.weight" for expert in experts for part in ("gate", "up")]
    for names in (first, [f"{expert}down_proj.weight" for expert in experts]):
        offset = slots[names[0]].offset
        for name in names:
            assert slots[name].offset == offset
            offset += slots[name].bytes


@pytest.mark.parametrize("name", [n for n in shapes.SHAPES if not n.startswith("tiny")])
def test_a_folder_with_a_shapes_configuration_has_its_tensors(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(shapes.configuration(shapes.SHAPES[name])))
    assert models.tensors_of(str(tmp_path)) == list(shapes.tensors(shapes.SHAPES[name])) == models.tensors_of(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mixtral"}, "its tensors are not known: model type mixtral, not llama"),
        ({"mlp_only_layers": [1]}, "its tensors are not known: a mixture of experts with dense layers"),
    ],
)
def test_a_folder_whose_tensors_are_not_known(change: dict[str, object], words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(shapes.configuration(shapes.SHAPES["tiny-moe"]) | change))
    with pytest.raises(UserError, match=words):
        models.tensors_of(str(tmp_path))


def test_folders_and_hub_names_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert models.find(str(tmp_path)) == models.Model(str(tmp_path))
    assert models.find("Qwen/Qwen2.5-0.5B") == models.Model("Qwen/Qwen2.5-0.5B", local=False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/model", "model path /no/such/model does not exist"),
        ("tiny-qwen4", "did you mean tiny-qwen"),
        ("zzz", "known are"),
    ],
)
def test_unknown_models_are_one_clear_line(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        models.find(name)


def test_folder_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        models.find(str(tmp_path))

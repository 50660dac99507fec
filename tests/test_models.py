"""Models made without a hub."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from harness import models
from harness.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLBENCH_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("name", [n for n, shape in models.SHAPES.items() if shape.weights])
def test_tiny_model_has_every_weight_in_its_shape(name: str) -> None:
    folder = Path(models.find(name).path)
    shape = models.SHAPES[name]
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        names = set(file.keys())
        assert file.get_slice("model.embed_tokens.weight").get_shape() == [shape.vocab, shape.hidden]
        assert file.get_slice("model.layers.3.self_attn.k_proj.weight").get_shape() == [128, 256]
    assert ("model.layers.0.self_attn.q_proj.bias" in names) == (shape.model_type == "qwen2")
    assert ("model.layers.0.self_attn.q_norm.weight" in names) == (shape.model_type == "qwen3")
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

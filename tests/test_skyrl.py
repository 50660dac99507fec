"""What is no SkyRL configuration is said in one line, with where and what to do."""

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.skyrl import load, parse
from harness.skyrl_keys import ALL, KNOWN, NEW, OLD
from tests.commands import rollbench

BAD = [
    ("a: [", "line 1: not YAML: "),
    ("generator:\n\tbackend: vllm\n", "line 2: not YAML: found character"),
    ("\x00", "not YAML: "),
    ("[" * 5000, "more than 30 levels"),
    ("", "it holds no keys; known are data, environment, generator, trainer"),
    ("- generator", "it holds no keys"),
    ("data:\n  train_data: []\n", "neither generator nor trainer in it"),
    ("model: x\nengine: y\n", "neither generator nor trainer in it"),
    ("generator:\n  bakend: vllm\n", "line 2: generator.bakend is no key of SkyRL: the nearest is generator.backend"),
    ("generator:\n  zzz: 1\n", "line 2: generator.zzz is no key of SkyRL: the nearest is generator."),
    ("trainer:\n  colocate_all: true\n", "did you mean trainer.placement.colocate_all?"),
    ("generator: {}\nmodel: x\n", "line 2: model is no key of SkyRL: known are data, environment, generator, trainer"),
    (
        "generator:\n  num_engines: 1\n",
        "today's name, under generator.inference_engine; here it is num_inference_engines",
    ),
    ("generator:\n  distributed_executor_backend: mp\n", "today's name, under generator.inference_engine"),
    ("generator:\n  inference_engine: {}\n  backend: vllm\n", "line 3: generator.backend is no key of SkyRL: today it"),
    ("generator:\n  inference_engine: {}\n  async_engine: true\n", "it was of SkyRL v0.4.0, and is gone"),
    (
        "generator:\n  backend: vllm\n\n  backend: sglang\n",
        "line 4: generator.backend stands there twice, first in line 2",
    ),
    ("generator: &a\n  backend: vllm\n", "line 1: anchors"),
    ("generator:\n  engine_init_kwargs: &a {x: 1}\n  chat_template_kwargs: *a\n", "line 2: anchors"),
    ("generator: !include engine.yaml\n", "line 1: the tag !include is not read"),
    ("defaults:\n  - base\ngenerator: {}\n", "line 1: defaults includes other files"),
    ("generator: {}\n---\ngenerator: {}\n", "line 2: a second document"),
    (
        "generator:\n  num_inference_engines: four\n",
        "line 2: generator.num_inference_engines is 'four', not a whole number",
    ),
    ("generator:\n  num_inference_engines: true\n", "is True, not a whole number"),
    ("generator:\n  gpu_memory_utilization: half\n", "is 'half', not a number"),
    ("generator:\n  enforce_eager: yes\n", "is 'yes', not true or false"),
    ("generator:\n  backend: VLLM\n", "is 'VLLM', not sglang or vllm: did you mean vllm?"),
    ("generator:\n  engine_init_kwargs: fa3\n", "is 'fa3', not a mapping"),
    ("generator: 5\n", "line 1: generator is 5, not a mapping of keys"),
    ("generator:\n  ? [a]\n  : 1\n", "line 2: a key that is no word"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_bad_input_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        load(file)
    said = str(refused.value)
    assert said.startswith(f"{file}: ")
    assert words in said
    assert "\n" not in said and len(said) < 400


@pytest.mark.parametrize(
    "command", [["check"], ["migrate", "--to", "vllm", "--write"], ["run", "-e", "fake", "--config"]]
)
def test_commands_end_with_2_and_leave_the_file(command: list[str], tmp_path: Path, results: Path) -> None:
    file = tmp_path / "config.yaml"
    for content in (b"generator:\n  bakend: sglang\n", b"\xff\xfe"):
        file.write_bytes(content)
        done = rollbench(*command, str(file))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert file.read_bytes() == content
    assert "cannot be read: No such file" in rollbench(*command, str(tmp_path / "none.yaml")).stderr
    assert "cannot be read: Is a directory" in rollbench(*command, str(tmp_path)).stderr


def test_what_omegaconf_fills_in_is_of_any_type() -> None:
    config = parse("generator:\n  backend: sglang\n  max_input_length: ${trainer.max_prompt_length}\n")
    assert config.backend == "sglang"
    assert config.of("generator.max_input_length", 7) == 7


def test_keys_are_asked_by_the_guides_names() -> None:
    today = parse("generator:\n  inference_engine:\n    num_engines: 4\n    backend: vllm\n")
    assert today.of("generator.num_inference_engines") == 4
    assert today.line("generator.num_inference_engines") == 3
    assert today.line("generator.inference_engine_tensor_parallel_size") == 2  # its section


def test_every_row_has_a_name_and_a_place() -> None:
    assert len({key.name for key in ALL.values() if key.name}) == len(KNOWN[OLD])
    assert len({key.today for key in ALL.values() if key.today}) == len(KNOWN[NEW])
    assert {"sglang", "vllm"} >= {backend for key in ALL.values() for backend in key.backends}

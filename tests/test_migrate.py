"""Conversions between backends: as section 5 of the guide does, and back to the byte."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.migrate import diff, left_out, migrate
from harness.skyrl import Config, parse
from tests.commands import rollbench

GUIDE = Path(__file__).parent / "data" / "guide"  # the YAML blocks of the old guide, as they stand there
OTHER = {"vllm": "sglang", "sglang": "vllm"}
TODAY = """generator:
  # engines
  inference_engine:  # today
    backend: "vllm"
    num_engines: 4  # four

    # about eager
    enforce_eager: true
    distributed_executor_backend: mp
    engine_init_kwargs:
      max_model_len: 4096   # tokens
      seen: [1,
        2]
    tensor_parallel_size: 1
  n_samples_per_prompt: 5
  use_conversation_multi_turn: false
trainer:
  strategy: fsdp
"""
FLAT = """generator:
  backend: sglang
  use_conversation_multi_turn: true
  engine_init_kwargs:
    attention_backend: flashinfer
    context_length: 4096
  num_inference_engines: 4
  inference_engine_tensor_parallel_size: 1
  n_samples_per_prompt: 5
trainer:
  strategy: fsdp
"""


def blocks() -> list[Any]:
    """Every block; those of section 5 as the two configurations that they hold."""
    found = []
    for path in sorted(GUIDE.glob("*.yaml")):
        parts = re.split(r"(?m)^(?=# After)", path.read_text())
        names = [path.stem] if len(parts) == 1 else [f"{path.stem}-before", f"{path.stem}-after"]
        found += [pytest.param(part, id=name) for name, part in zip(names, parts, strict=True)]
    return found


def settings_of(text: str) -> dict[str, Any]:
    return {path: value for path, value in parse(text).values.items() if not isinstance(value, dict | None)}


@pytest.mark.parametrize("text", blocks())
def test_every_block_of_the_guide_goes_both_ways(text: str) -> None:
    backend = parse(text).backend
    there = migrate(text, OTHER[backend])
    assert parse(there).backend == OTHER[backend]
    assert migrate(there, backend) == text
    assert migrate(text, backend) == text  # it is there already
    again = migrate(migrate(there, backend), OTHER[backend])
    assert again == there


@pytest.mark.parametrize("name", ["vllm-to-sglang", "sglang-to-vllm"])
def test_the_guides_own_migrations_come_out(name: str) -> None:
    before, after = re.split(r"(?m)^(?=# After)", (GUIDE / f"{name}.yaml").read_text())
    assert settings_of(migrate(before, parse(after).backend)) == settings_of(after)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("end", [True, False])
def test_todays_keys_get_the_guides_names_and_theirs_again(newline: str, end: bool) -> None:
    text = (TODAY if end else TODAY.rstrip("\n")).replace("\n", newline)
    there = migrate(text, "sglang")
    assert settings_of(there) == settings_of(FLAT)
    assert "  num_inference_engines: 4  # four" in there
    assert "\n  # about eager" in there
    assert migrate(there, "vllm") == text


def test_what_is_changed_in_between_is_kept() -> None:
    there = migrate(TODAY, "sglang").replace("flashinfer", "fa3").replace("engines: 4", "engines: 8")
    back = migrate(there, "vllm")
    assert parse(back).values["generator.inference_engine.num_engines"] == 8
    assert parse(back).kwargs["max_model_len"] == 4096
    assert "attention_backend: fa3" in back
    assert migrate(back, "sglang") == there


def test_only_lines_that_must_change_do() -> None:
    text = (GUIDE / "vllm.yaml").read_text()
    kept = [line for line in text.splitlines() if not re.search(r"backend: vllm|v1|eager", line)]
    assert [line for line in migrate(text, "sglang").splitlines() if "rollbench" not in line][:1] == kept[:1]
    shown = diff(text, migrate(text, "sglang"), "a.yaml")
    assert "-  backend: vllm\n+  backend: sglang\n" in shown
    assert not [line for line in shown.splitlines() if line[1:] in kept and line[:1] in "+-"]


def test_arguments_without_a_counterpart_are_named() -> None:
    assert left_out(parse(TODAY), "sglang") == ["seen"]
    assert left_out(parse(FLAT), "vllm") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("generator: {backend: vllm}", "line 1: generator.backend shares its line"),
        ("generator:\n  max_turns: 1\n  backend:\n", "line 3: generator.backend names no backend"),
        ("generator:\n  backend: ${x}\n", "line 2: generator.backend names no backend"),
        ("trainer:\n  strategy: fsdp\n", "no generator in it"),
        ("generator:\n  backend: vllm\n  # [rollbench: sglang] backend: sglang\n", "stands there twice"),
        (TODAY.replace("    # about eager", "  # about eager"), "indent comments as the keys below"),
        ("generator:\n  backend: vllm\n  # [rollbench: vllm] max_turns: 3\n", "the way back would not give"),
    ],
)
def test_what_cannot_go_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as refused:
        migrate(text, "sglang", "a.yaml")
    assert str(refused.value).startswith("a.yaml: ")


@pytest.mark.parametrize("name", ["sglang", "vllm"])
def test_the_file_is_changed_with_write_alone(name: str, tmp_path: Path) -> None:
    text = (GUIDE / f"{name}.yaml").read_bytes()
    file, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    file.write_bytes(text)
    file.chmod(0o600)
    link.symlink_to(file)
    shown = rollbench("migrate", str(link), "--to", OTHER[name])
    assert shown.returncode == 0
    assert f"\n-  backend: {name}\n" in shown.stdout
    assert "nothing is written" in shown.stderr
    assert file.read_bytes() == text
    assert f"{name} is now {OTHER[name]}" in rollbench("migrate", str(link), "--to", OTHER[name], "--write").stdout
    assert parse(file.read_text()).backend == OTHER[name]
    assert f"for {OTHER[name]} already" in rollbench("migrate", str(link), "--to", OTHER[name], "--write").stdout
    rollbench("migrate", str(link), "--to", name, "--write")
    assert file.read_bytes() == text
    assert (file.stat().st_mode & 0o777, link.is_symlink()) == (0o600, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.yaml", "real.yaml"]


def test_what_stays_behind_is_said(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(TODAY)
    said = rollbench("migrate", str(file), "--to", "sglang").stderr
    assert "engine_init_kwargs.seen has no counterpart known here" in said
    assert "keys get the names of SkyRL v0.4.0" in said
    file.write_text("generator: {backend: vllm}\n")
    refused = rollbench("migrate", str(file), "--to", "sglang", "--write")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert file.read_text() == "generator: {backend: vllm}\n"


KEYS = {  # lines of a section, `{}` for a further level
    "backend": ["backend: vllm", "backend: 'sglang'  # here", 'backend: "vllm"', ""],
    "engines": ["num_inference_engines: 4", "# nothing", ""],
    "eager": ["enforce_eager: true", "enforce_eager:   false # graphs", "# enforce_eager: true", ""],
    "process": ["vllm_v1_disable_multiproc: true", ""],
    "turns": ["use_conversation_multi_turn: true  # needed", "use_conversation_multi_turn: false", ""],
    "kwargs": [
        "engine_init_kwargs: { }",
        "engine_init_kwargs:\n{}attention_backend: fa3\n\n{}# a note\n{}context_length: 8192",
        "engine_init_kwargs: # own\n{}max_model_len: 8192\n{}other: [1,\n{}  2]\n{}text: |\n{}  two\n{}  lines",
        "",
    ],
    "samples": ["n_samples_per_prompt: 4\n\n", "sampling_params:\n{}temperature: 0.7", "sampling_params: {top_p: 0.9}"],
}


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A file as people write them: order, comments, blank lines, indentation, line ends."""
    deep = draw(st.sampled_from([1, 2, 4]))
    today = draw(st.booleans())
    chosen = [draw(st.sampled_from(choices)) for choices in KEYS.values()]
    lines = [line for line in draw(st.permutations(chosen)) if line]
    engine = [line for line in lines if not re.match("n_samples|sampling|use_conv", line)] if today else []
    inner = "".join(f"\n{_indented(line, 2 * deep, deep)}" for line in engine).replace("num_inference_e", "num_e")
    made = [f"{' ' * deep}inference_engine:{inner}"] if today and "sglang" not in inner and inner else []
    made += [_indented(line, deep, deep) for line in lines if not (made and line in engine)]
    other = draw(st.lists(st.sampled_from(["", "# a comment", "trainer:\n  strategy: fsdp2"]), max_size=2, unique=True))
    text = "\n".join([*draw(st.permutations(["generator:\n" + "\n".join(made), *other]))])
    text += draw(st.sampled_from(["", "\n", "\n\n  \n"]))
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


def _indented(line: str, at: int, deep: int) -> str:
    return "\n".join(f"{' ' * at}{part}" if part else "" for part in line.replace("{}", " " * deep).split("\n"))


def other_keys(config: Config) -> dict[str, Any]:
    """What has nothing to do with the backend, by the guide's names."""
    own = ("backend", "eager", "multiproc", "multi_turn", "init_kwargs")
    leaves = {path: value for path, value in config.values.items() if not isinstance(value, dict | None)}
    named = {path.replace("inference_engine.", "").replace("num_e", "num_inference_e"): v for path, v in leaves.items()}
    return {
        path.replace("_inference_inference", "_inference"): v
        for path, v in named.items()
        if not any(o in path for o in own)
    }


@settings(max_examples=150, deadline=None)
@given(texts())
def test_there_and_back_gives_every_byte(text: str) -> None:
    try:
        before = parse(text)
    except UserError:
        return
    there = migrate(text, OTHER[before.backend])
    after = parse(there)
    assert after.backend == OTHER[before.backend]
    assert migrate(there, before.backend) == text
    assert other_keys(after) == other_keys(before)


@settings(max_examples=80, deadline=None)
@given(texts(), st.data())
def test_a_file_that_is_edited_in_between_loses_nothing_either(text: str, data: st.DataObject) -> None:
    try:
        backend = parse(text).backend
        lines = migrate(text, OTHER[backend]).split("\n")
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at : at + 1] = data.draw(st.sampled_from([[], [lines[at], ""], [lines[at].replace("true", "false")]]))
        edited = "\n".join(lines)
        back = migrate(edited, OTHER[parse(edited).backend])
    except UserError:
        return
    assert migrate(back, parse(edited).backend) == edited

"""The files that a project's CI takes: they parse, name what there is, and pass on what a verdict ends with."""

import itertools
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from harness import cli, scenario
from harness.paths import PROJECT

ACTION = PROJECT / ".github" / "actions" / "gate" / "action.yml"
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


def action() -> Any:
    return yaml.safe_load(ACTION.read_text())


def script(name: str) -> str:
    return next(str(step["run"]) for step in action()["runs"]["steps"] if step["name"] == name)


def gate(tmp_path: Path, code: int, **inputs: str) -> tuple[list[str], str, str]:
    """What the action gives to `rollbench`, the code that it passes on, and the job's summary."""
    program = tmp_path / "rollbench" / "bin" / "rollbench"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/asked\nmkdir -p {tmp_path}/gate\n'
                       f"echo table > {tmp_path}/gate/gate.md\nexit {code}\n")  # fmt: skip
    program.chmod(0o755)
    defaults = {k.upper().replace("-", "_"): str(v.get("default", "")) for k, v in action()["inputs"].items()}
    files = {"RUNNER_TEMP": tmp_path, "GITHUB_OUTPUT": tmp_path / "output", "GITHUB_STEP_SUMMARY": tmp_path / "summary"}
    environment = (
        os.environ | defaults | {"BASE": "main", "HEAD": "topic"} | inputs | {k: str(v) for k, v in files.items()}
    )
    subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script("Gate")], check=True, env=environment, cwd=tmp_path)
    return (
        (tmp_path / "asked").read_text().splitlines(),
        (tmp_path / "output").read_text(),
        (tmp_path / "summary").read_text(),
    )


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_action_passes_the_verdict_on(tmp_path: Path, code: int) -> None:
    asked, output, summary = gate(tmp_path, code)
    assert asked[:3] == ["gate", "main", "topic"]
    assert output == f"code={code}\n"
    assert summary == "table\n"
    done = subprocess.run(["bash", "-c", script("Verdict")], env={"CODE": str(code)}, check=False)
    assert done.returncode == code


def test_inputs_reach_the_command_as_they_are(tmp_path: Path) -> None:
    inputs = {"HEAD": "a; touch pwned $(touch pwned)", "CASES": "single_turn/* weight_sync/tiny-shm", "ENGINES": "vllm",
              "SHADOW": "false", "INCONCLUSIVE_OK": "true", "MORE": "5"}  # fmt: skip
    asked, _, _ = gate(tmp_path, 0, **inputs)
    assert asked[2] == inputs["HEAD"]
    assert not (tmp_path / "pwned").exists()
    cases = [value for option, value in itertools.pairwise(asked) if option == "--case"]
    assert cases == inputs["CASES"].split()
    assert "--shadow" not in asked
    assert "--inconclusive-ok" in asked


def test_the_action_uses_options_that_there_are(tmp_path: Path) -> None:
    asked, _, _ = gate(tmp_path, 0, CASES="x", INCONCLUSIVE_OK="true")
    known = CliRunner().invoke(cli.app, ["gate", "--help"], env={"COLUMNS": "200"}).stdout
    assert all(option in known for option in asked if option.startswith("--"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_name_cases_and_inputs_that_there_are(path: Path) -> None:
    (job,) = yaml.safe_load(path.read_text())["jobs"].values()
    (step,) = (step for step in job["steps"] if step["uses"].startswith("./"))
    assert (PROJECT / step["uses"] / "action.yml").is_file()
    assert step["with"].keys() <= action()["inputs"].keys()
    assert set(step["with"]["cases"].split()) <= scenario.cases().keys()


def test_no_script_holds_what_a_stranger_may_name() -> None:
    for step in action()["runs"]["steps"]:
        assert "${{" not in step.get("run", "")

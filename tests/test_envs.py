"""Which interpreter runs an engine, and what is said when there is none."""

import os
import sys
from pathlib import Path

import pytest

from harness import envs
from harness.errors import EnvironmentMissing, UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROLLBENCH_HOME", str(tmp_path))
    monkeypatch.delenv("ROLLBENCH_VLLM_PYTHON", raising=False)
    monkeypatch.setattr(envs, "gpu_names", tuple)
    return tmp_path


def test_missing_environment_names_the_command_that_builds_it() -> None:
    with pytest.raises(EnvironmentMissing, match=r"no cpu environment for vllm: build it with `nox -s env-vllm`"):
        envs.find("vllm")


def test_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no engine 'vlm': did you mean vllm\?"):
        envs.find("vlm")


def test_interpreter_named_by_a_variable_is_the_carried_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLBENCH_VLLM_PYTHON", sys.executable)
    found = envs.find("vllm")
    assert (found.lane, found.python, found.device, found.paths) == ("carried", sys.executable, "cpu", ())
    monkeypatch.setattr(envs, "gpu_names", lambda: ("a GPU",))
    assert found.device == "cuda"


def test_variable_that_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLBENCH_VLLM_PYTHON", "/no/python")
    with pytest.raises(EnvironmentMissing, match="ROLLBENCH_VLLM_PYTHON names /no/python"):
        envs.build("vllm", print)


def test_variable_may_be_relative_and_names_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(sys.executable).parent)
    monkeypatch.setenv("ROLLBENCH_VLLM_PYTHON", Path(sys.executable).name)
    found = envs.find("vllm")
    assert found.python == sys.executable
    assert len(found.lock_hash) == 64
    assert "\nnumpy==" in envs.installed(found.python)


def test_environment_is_kept_by_its_lock_and_rebuilt_when_it_was_not_finished(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def uv(*arguments: str, advice: str) -> None:
        assert advice
        calls.append(" ".join(arguments))
        if arguments[0] == "venv":
            python = Path(arguments[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)
        elif len(calls) == 2:
            raise UserError("uv pip failed")

    monkeypatch.setattr(envs, "uv", uv)
    with pytest.raises(UserError, match="uv pip failed"):
        envs.build("sglang", print)
    with pytest.raises(EnvironmentMissing):
        envs.find("sglang")
    built = envs.build("sglang", print)
    assert envs.build("sglang", print) == envs.find("sglang") == built
    assert len(calls) == 4
    assert "--require-hashes" in calls[1]
    assert built.lock_hash[:8] in built.python
    assert [path.name for path in built.paths] == ["sglang_cpu"]
    assert os.access(built.python, os.X_OK)


def test_a_gpu_takes_the_cuda_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs, "gpu_names", lambda: ("a GPU",))
    with pytest.raises(EnvironmentMissing, match="no cuda environment for sglang"):
        envs.find("sglang")


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("/some/wheels", ["--find-links=/some/wheels"]), ("/a /b", ["--find-links=/a", "--find-links=/b"])],
)
def test_torch_comes_from_where_pip_is_told(
    variable: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", variable)
    assert envs.torch_source("cpu") == expected
    assert envs.torch_source("cuda") == []


def test_torch_comes_from_its_own_index_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # no configuration at all
    assert envs.torch_source("cpu") == ["--torch-backend=cpu"]


def test_locks_hold_hashes_and_no_address() -> None:
    locks = list(envs.REQUIREMENTS.glob("*.txt"))
    assert {lock.stem for lock in locks} >= {"light", "dev", "vllm-cpu", "sglang-cpu", "vllm-cuda", "sglang-cuda"}
    for lock in locks:
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text
        assert "find-links" not in text

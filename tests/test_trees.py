"""The code of a side: commits of a small repository, and folders."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness import commit, envs, trees
from harness.errors import UserError
from harness.paths import PROJECT


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits, and a cache of its own."""
    folder = tmp_path / "repository"
    (folder / "harness").mkdir(parents=True)
    for module in (trees, commit):
        monkeypatch.setattr(module, "PROJECT", folder)
    monkeypatch.setattr(commit.git, "__kwdefaults__", {"tree": folder})
    monkeypatch.setenv("ROLLBENCH_HOME", str(tmp_path / "cache"))
    commit.current.cache_clear()
    run(folder, "init", "-q", "-b", "main")
    for number in (1, 2):
        (folder / "harness" / "cli.py").write_text(f"NUMBER = {number}\n")
        run(folder, "add", ".")
        run(folder, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", f"number {number}")
    yield folder
    commit.current.cache_clear()


def run(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def test_commits_are_exported_once_with_their_stamp(repository: Path) -> None:
    old, new = trees.of_commit("main~1"), trees.of_commit("HEAD")
    assert [(t.path / "harness" / "cli.py").read_text() for t in (old, new)] == ["NUMBER = 1\n", "NUMBER = 2\n"]
    assert new.commit == commit.of(repository)
    assert not new.commit.dirty
    (old.path / "mark").touch()
    assert (trees.of_commit("main~1").path / "mark").exists()


def test_an_unknown_commit_is_a_mistake(repository: Path) -> None:
    for name in ("nowhere", "--all", "main:harness"):
        with pytest.raises(UserError, match=f"no commit '{name}' here"):
            trees.of_commit(name)


def test_a_dirty_checkout_is_refused_as_a_commit_and_labelled_as_a_tree(repository: Path) -> None:
    (repository / "harness" / "cli.py").write_text("NUMBER = 3\n")
    commit.current.cache_clear()
    with pytest.raises(UserError, match="HEAD is checked out with changes that no commit holds"):
        trees.of_commit("HEAD")
    assert not trees.of_commit("main~1").commit.dirty
    assert trees.of_folder(repository).commit.dirty


def test_without_history_there_are_only_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "PROJECT", tmp_path)
    with pytest.raises(UserError, match="no git history to take 'main' from: compare trees with --base DIR --head DIR"):
        trees.of_commit("main")
    with pytest.raises(UserError, match=r"is no checkout of rollbench: harness/cli.py is missing"):
        trees.of_folder(tmp_path)


def test_a_tree_with_our_light_lock_runs_in_our_environment() -> None:
    assert trees.light(trees.of_folder(PROJECT), print) == sys.executable


def test_a_tree_with_a_lock_of_its_own_gets_its_environment_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLBENCH_HOME", str(tmp_path / "cache"))
    (tmp_path / "harness").mkdir()
    (tmp_path / "requirements").mkdir()
    for name in ("harness/cli.py", "requirements/light.txt"):
        (tmp_path / name).write_text("# empty\n")
    said, asked = list[str](), list[str]()
    monkeypatch.setattr(envs, "uv", lambda *arguments, advice: asked.append(" ".join(arguments[:2])) or make(arguments))

    def make(arguments: tuple[str, ...]) -> None:
        if arguments[0] == "venv":
            Path(arguments[-1]).mkdir(parents=True)

    found = trees.of_folder(tmp_path)
    python = trees.light(found, said.append)
    assert python == trees.light(found, said.append)
    assert asked == ["venv --quiet", "pip sync"]
    assert Path(python).parents[1].name == f"light-{envs.lock_hash(tmp_path / 'requirements' / 'light.txt')[:8]}"
    assert len(said) == 1


def test_a_process_of_a_tree_sees_that_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert trees.of_folder(PROJECT).variables()["PYTHONPATH"] == str(PROJECT)

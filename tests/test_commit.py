"""What code is measured: git, a stamp, and a stamp in a copy that came with an older history."""

from pathlib import Path

import pytest

from harness import commit
from harness.record import Commit


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of one commit, with a file that git ignores."""
    (tmp_path / "code.py").write_text("one\n")
    (tmp_path / ".gitignore").write_text(".rollbench/\n")
    for words in (["init", "-q"], ["add", "--all"], ["commit", "-qm", "one"]):
        commit.git("-c", "user.name=a", "-c", "user.email=a@b", *words, tree=tmp_path)
    return tmp_path


def stamp(tree: Path, files: str = "") -> Commit:
    found = Commit(id="5ea1ed", tree=files or commit.files(tree), dirty=False)
    (tree / commit.STAMPED).parent.mkdir(exist_ok=True)
    (tree / commit.STAMPED).write_text(found.model_dump_json())
    return found


def test_a_stamp_goes_before_an_older_history_whose_files_it_is_not(tree: Path) -> None:
    head = commit.of(tree)
    assert (head.dirty, head.tree) == (False, commit.files(tree))
    (tree / "code.py").write_text("two\n")
    (tree / "new.py").write_text("three\n")
    assert commit.of(tree) == head.model_copy(update={"dirty": True})
    stamped = stamp(tree)
    assert commit.of(tree) == stamped
    (tree / "code.py").write_text("four\n")
    assert commit.of(tree) == head.model_copy(update={"dirty": True})


def test_a_stamp_of_old_says_nothing_of_a_commit(tree: Path) -> None:
    stamp(tree, "another")
    (tree / "code.py").write_text("two\n")
    assert commit.of(tree).id == commit.git("rev-parse", "HEAD", tree=tree)


def test_a_copy_without_history_has_its_stamp(tmp_path: Path) -> None:
    assert commit.of(tmp_path) == Commit(id="unknown", tree="unknown", dirty=True)
    (tmp_path / ".rollbench").mkdir()
    (tmp_path / commit.STAMPED).write_text('{"id": "a", "tree": "b", "dirty": false}')
    assert commit.of(tmp_path) == Commit(id="a", tree="b", dirty=False)

"""Records on disk: whole or not at all, and never in the way of the others."""

import os
from pathlib import Path

import pytest

from harness import store
from harness.errors import UserError
from tests.factory import record


def test_record_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = store.save(record(), tmp_path)
    assert store.load(path) == record()
    machine_id = record().machine.id
    assert path.relative_to(tmp_path).parts[:3] == (machine_id, "single_turn", "tiny-16")
    assert path.name.startswith("vllm-20260102T030405Z-")
    assert sum(line.startswith('  {"order"') for line in path.read_text().splitlines()) == 3


def test_same_content_has_the_same_name_and_other_content_another(tmp_path: Path) -> None:
    first, again, other = (store.save(r, tmp_path) for r in (record(), record(), record(values=(1.0, 2.0))))
    assert first == again != other


@pytest.mark.parametrize(
    "text", ["", '{"schema": 1', "[]", '{"schema": 7}', "null", '{"hello": "world"}', "\x00\xff"],
    ids=["empty", "truncated", "list", "newer schema", "null", "alien", "binary"],
)  # fmt: skip
def test_alien_files_are_passed_over_by_name(tmp_path: Path, text: str) -> None:
    good = store.save(record(), tmp_path)
    bad = good.with_name("bad.json")
    bad.write_text(text)
    found = dict(store.scan(tmp_path))
    assert found[good] == record()
    assert str(bad) in str(found[bad])
    assert "not a record" in str(found[bad])


def test_unreadable_file_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.json").symlink_to(tmp_path / "nowhere")
    assert [str(reason) for _, reason in store.scan(tmp_path)] == [
        f"{tmp_path}/x.json: cannot be read: No such file or directory"
    ]


def test_pending_launches_are_no_records(tmp_path: Path) -> None:
    store.write(tmp_path / ".work" / "pending" / "run" / "plan.json", "{}")
    assert list(store.scan(tmp_path)) == []


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(tmp_path / "x", "old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        store.write(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_folder_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"results folder .* cannot be written: Not a directory; .*--results"):
        store.writable(tmp_path / "file" / "results")

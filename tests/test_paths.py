"""What a record keeps of an engine's words."""

from pathlib import Path

import pytest

from harness.paths import anywhere


def test_words_name_no_place_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, linked = tmp_path / "results of mine", tmp_path / "link"
    linked.symlink_to(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("ROLLBENCH_HOME", str(tmp_path / "cache"))
    for words, told in {
        "File /home/me/x.py, line 3": "File ~/x.py, line 3",
        f"(log: {results}/.work/logs/z.log)": "(log: results/.work/logs/z.log)",
        f'"{tmp_path}/cache/envs/y"': '"$ROLLBENCH_HOME/envs/y"',
        "http://host/home/me/x, /mnt/home/me/x, /home/mean/x": "http://host/home/me/x, /mnt/home/me/x, /home/mean/x",
    }.items():
        assert anywhere(words, results) == told
    assert anywhere(f"{results}/a", linked / "results of mine") == "results/a"
    monkeypatch.setenv("HOME", "/")
    assert anywhere("/x http://host//a", results) == "/x http://host//a"

"""Change points over records: found where they are, not in noise; and the command that finds the commit."""

import os
import subprocess
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness import cli, history, store
from harness.history import Series
from harness.metrics import METRICS
from harness.record import Certificate, Commit, Record
from tests.factory import START, launch, record

SPEED = METRICS["output_throughput"]


def day(number: int, level: float, **changes: object) -> Record:
    commit = Commit(id=f"{number:040x}", tree="7ee", dirty=False)
    fields = {"commit": commit, "started": START + timedelta(days=number), "values": (level, level * 1.01)}
    return record(**(fields | changes))  # type: ignore[arg-type]


def levels(*values: float) -> list[Record]:
    return [day(n, value) for n, value in enumerate(values)]


def speed(records: list[Record]) -> Series:
    return next(s for s in history.series(records) if s.metric is SPEED)


def test_a_level_that_fell_is_found_between_its_commits() -> None:
    records = levels(100, 101, 99, 100, 102, 100, 80, 81, 79, 80, 80)
    (change,) = history.changes(speed(records[::-1]))
    assert (change.before.commit, change.after.commit) == (records[5].commit, records[6].commit)
    assert change.worse == pytest.approx(0.255, abs=0.01)
    assert change.bisect.endswith(
        "BISECT_HEAD -c single_turn/tiny-16 -e vllm --block output_throughput --no-control --bisect"
    )
    assert change.bisect.startswith(
        f"git bisect start --no-checkout {6:040x} {5:040x} && git bisect run rollbench gate {5:040x}"
    )


def test_levels_that_never_vary_can_change_too() -> None:
    (change,) = history.changes(speed(levels(*[100.0] * 6, *[120.0] * 6)))
    assert change.worse == pytest.approx(100 / 120 - 1)


def test_noise_alone_shows_a_change_in_fewer_than_one_series_of_twelve() -> None:
    random, found = np.random.default_rng(0), 0
    held = levels(*[100.0] * 20)
    for _ in range(150):
        found += bool(history.changes(Series(SPEED, held, np.exp(random.normal(0, 0.05, 20)).tolist())))
    assert found / 150 < 0.08


def test_a_short_series_tells_nothing() -> None:
    assert history.changes(speed(levels(100, 100, 100, 50, 50, 50, 50))) == []


def test_a_series_holds_what_can_be_compared_with_its_newest() -> None:
    red = [launch(1, 1.0, certificates={"cache": Certificate(ok=False, figure=1, reason="warm")})]
    records = [
        day(0, 5, params={"model": "other"}),
        day(1, 100),
        day(2, 100, launches=red),
        day(3, 101),
        day(4, 7, engine="sglang"),
    ]
    found = {(s.records[0].engine, s.metric.name): len(s.records) for s in history.series(records)}
    assert found["vllm", "output_throughput"] == 2
    assert found["sglang", "output_throughput"] == 1


def test_the_command_shows_changes_and_what_else_changed(results: Path) -> None:
    for held in levels(*[100.0, 101.0, 99.0, 100.0] * 2):
        store.save(held, results)
    for number in range(8, 12):
        store.save(day(number, 70 + number / 10, versions={"torch": "2.14.0"}), results)
    (results / "alien.json").write_text("{}")
    done = CliRunner().invoke(cli.app, ["history", "--markdown"])
    assert done.exit_code == 0, done.output
    assert f"| 12 | 100.5 tok/s | 71.45 tok/s | 40.9 % worse at {8:010x} |" in done.stdout.replace(
        f"{8:040x}"[:10], f"{8:010x}"
    )
    assert (
        "between 0000000000 (2026-01-09) and 0000000000 (2026-01-10); versions: torch 2.13.0 to 2.14.0" in done.stdout
    )
    assert "find it: git bisect start --no-checkout" in done.stdout
    assert CliRunner().invoke(cli.app, ["history", "-c", "nothing"]).exception is not None


def test_one_commit_on_both_sides_is_not_the_code() -> None:
    same = Commit(id="c0ffee", tree="7ee", dirty=False)
    records = [day(n, 100.0 if n < 6 else 50.0, commit=same) for n in range(12)]
    (change,) = history.changes(speed(records))
    assert change.one_commit


def test_git_finds_the_commit_with_the_command(tmp_path: Path) -> None:
    """A stand-in for `rollbench` that calls commits from the fifth on slow, and cannot tell the second."""
    repository, binaries = tmp_path / "repository", tmp_path / "bin"
    for folder in (repository, binaries):
        folder.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    ids = []
    for number in range(8):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", str(number)], check=True)
        ids.append(
            subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        )
    script = binaries / "rollbench"
    script.write_text('#!/bin/sh\nn=$(git log -1 --format=%s "$3")\n[ "$n" = 2 ] && exit 125\n[ "$n" -lt 5 ]\n')
    script.chmod(0o755)
    records = [
        day(n, 100.0 if n < 6 else 50.0, commit=Commit(id=ids[0 if n < 6 else 7], tree="t", dirty=False))
        for n in range(12)
    ]
    (change,) = history.changes(speed(records))
    environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}"}
    done = subprocess.run(
        change.bisect, shell=True, cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert f"{ids[5]} is the first bad commit" in done.stdout, done.stderr

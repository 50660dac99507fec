"""`rollbench gate` and `rollbench calibrate` as a user meets them, on saved records."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from harness import cli, machine, store
from harness.cells import Failure
from harness.errors import UserError
from harness.record import Certificate, Commit, Record
from tests.factory import launch, record

LEVELS = (100.0, 101.0, 99.0, 100.5, 100.2)
SLOW = tuple(value * 0.8 for value in (99.0, 101.0, 100.0, 100.2, 100.9))


def sides(root: Path, head: Record | None = None, *others: tuple[str, Record]) -> list[str]:
    for side, found in (("base", record(values=LEVELS)), ("head", head or record(values=LEVELS)), *others):
        store.save(found, root / side)
    return [str(root / side) for side in ("base", "head")]


class Done(NamedTuple):
    exit_code: int
    stdout: str


def rollbench(*arguments: object) -> Done:
    """What `main` does with a mistake included: one line, and exit status 2."""
    found = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if isinstance(found.exception, UserError):
        return Done(2, str(found.exception))
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return Done(found.exit_code, found.stdout)


@pytest.mark.parametrize(
    ("head", "options", "code"),
    [
        ({"values": LEVELS}, (), 0),
        ({"values": SLOW}, (), 1),
        ({"values": SLOW}, ("--shadow",), 0),
        ({"values": SLOW}, ("--inconclusive-ok",), 1),
        ({"values": tuple(v * 1.3 for v in LEVELS)}, (), 0),
        ({"values": (90.0, 110.0, 105.0, 95.0, 99.0)}, (), 3),
        ({"values": (90.0, 110.0, 105.0, 95.0, 99.0)}, ("--inconclusive-ok",), 0),
        ({"values": LEVELS[:1]}, (), 3),  # one pair
        ({"values": LEVELS, "machine": machine.fingerprint().model_copy(update={"cores": 999})}, (), 2),
        ({"values": LEVELS, "params": {"model": "x"}}, (), 2),
        ({"values": SLOW}, ("--block", "ttft", "--pairs", "1"), 3),
        ({"values": SLOW, "run": "another"}, (), 3),
        ({"values": SLOW, "run": "another"}, ("--apart",), 1),
    ],
)
def test_exit_status(tmp_path: Path, head: dict[str, Any], options: tuple[str, ...], code: int) -> None:
    done = rollbench("gate", "--records", *sides(tmp_path, record(**head)), *options)
    assert done.exit_code == code, done.stdout


def test_a_regression_names_metric_ratio_interval_launches_and_command(tmp_path: Path) -> None:
    base, head = sides(tmp_path, record(values=SLOW))
    said = rollbench("gate", "--records", base, head, "--pairs", 4).stdout
    assert re.search(
        r"regress: single_turn/tiny-16 on vllm, output: 25.\d % worse \(head / base 0.79\d \[0.78\d, 0.81", said
    )
    assert "base by launch: 100, 101, 99, 100.5, 100.2 tok/s" in said
    assert f"again: rollbench gate --records {base} {head} -c single_turn/tiny-16 -e vllm --pairs=4" in said


def test_files_for_a_pull_request_and_for_machines(tmp_path: Path) -> None:
    slow = record(values=SLOW, commit=Commit(id="0123456789abcdef", tree="7ee", dirty=True))
    paths = sides(tmp_path, slow, ("head", record("fake", LEVELS)))
    files = [tmp_path / name for name in ("o.md", "o.xml", "o.json")]
    options = zip(("--markdown", "--junit", "--json"), files, strict=True)
    assert rollbench("gate", "--records", *paths, *(part for pair in options for part in pair)).exit_code == 1
    text = files[0].read_text()
    assert text.startswith("**❌ regress: ")
    assert "0123456789 and changes that no commit holds" in text
    assert "| single_turn/tiny-16 | fake | (all) | new |" in text
    suite = ElementTree.parse(files[1]).getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "3",
        "1",
        "0",
        "1",
    )
    told = json.loads(files[2].read_text())
    assert told["verdict"] == "regress"
    assert told["looks"] == [{"pairs": None, "alpha": 0.05}]
    row = next(row for row in told["rows"] if row["metric"] == "output_throughput")
    assert row["head"] == pytest.approx(list(SLOW))
    assert row["worse"] == pytest.approx(0.249, abs=0.001)


@pytest.mark.parametrize(("options", "element"), [((), "error"), (("--inconclusive-ok",), "skipped")])
def test_what_cannot_be_told_is_no_pass_in_junit(tmp_path: Path, options: tuple[str, ...], element: str) -> None:
    paths = sides(tmp_path, record(values=LEVELS[:1]))
    rollbench("gate", "--records", *paths, "--junit", tmp_path / "o.xml", *options)
    suite = ElementTree.parse(tmp_path / "o.xml").getroot()[0]
    assert {found.tag for case in suite for found in case} == {element, "system-out"}  # TTFT, which informs


def test_hostile_text_stays_text_in_every_output(tmp_path: Path) -> None:
    hostile = "</details><script>alert(1)</script>```\x1b[31m|\u202e"
    bad = record(launches=[launch(1, 1.0, certificates={"cache": Certificate(ok=False, figure=1, reason=hostile)})])
    files = [tmp_path / "o.md", tmp_path / "o.xml", tmp_path / "o.json"]
    done = rollbench(
        "gate", "--records", *sides(tmp_path, bad), "--markdown", files[0], "--junit", files[1], "--json", files[2]
    )
    assert done.exit_code == 3
    assert "\x1b" not in done.stdout + files[0].read_text() + files[1].read_text()
    table, fenced = files[0].read_text().split("```text\n")
    assert "<script>" not in table
    assert fenced.count("```") == 1  # nothing in it ends the fence before its end
    ElementTree.parse(files[1])


def test_failures_and_the_control_are_read_beside_the_records(tmp_path: Path) -> None:
    paths = sides(tmp_path, None, ("control", record(values=tuple(v * 0.7 for v in LEVELS))))
    assert "the base against itself differs" in rollbench("gate", "--records", *paths).stdout
    failure = Failure(case="single_turn/tiny-16", engine="sglang", pair=1, error="died in start", log="/x.log")
    for name in ("base", "head"):
        store.write(tmp_path / name / "failed.jsonl", failure.model_dump_json() + "\n")
    assert "fails on both: died in start (log: /x.log)" in rollbench("gate", "--records", *paths).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "gate takes what to hold against"),
        (["nowhere", "HEAD"], "no commit 'nowhere' here"),
        (["--base", "."], "or two trees, --base DIR --head DIR"),
        (["--base", "docs", "--head", "docs"], "docs is no checkout of rollbench"),
        (["--records", "only"], "gate --records takes two"),
        (["--records", "/no/a", "/no/b"], "/no/a: no such record or folder"),
        (["main", "HEAD", "--block", "ttfd"], "no metric 'ttfd': did you mean ttft?"),
    ],
)
def test_mistakes_are_told(results: Path, arguments: list[str], words: str) -> None:
    done = rollbench("gate", *arguments)
    assert done.exit_code == 2
    assert words in done.stdout


def test_calibrate_reads_spreads_and_simulates(tmp_path: Path) -> None:
    base, _ = sides(tmp_path)
    done = rollbench("calibrate", base, "--pairs", 3, "--pairs", 5, "--effect", 0.05, "--trials", 20, "--markdown")
    assert done.exit_code == 0
    assert "| single_turn/tiny-16 | vllm | output | 0.7 % | 1.0 % | 4 df |" in done.stdout
    assert "any false regress of 1 |" in done.stdout


def test_calibrate_assumes_a_spread_and_shows_other_tools() -> None:
    done = rollbench("calibrate", "--launch-spread", 0.02, "--pairs", 5, "--trials", 20, "--rivals", "--markdown")
    assert done.exit_code == 0
    assert "| pooled Mann-Whitney | 5 | 100.0% |" in done.stdout


def test_calibrate_without_records_says_so(results: Path) -> None:
    done = rollbench("calibrate")
    assert done.exit_code == 2
    assert "no records with two launches" in done.stdout
    assert rollbench("calibrate", "--metric", "nothing").exit_code == 2

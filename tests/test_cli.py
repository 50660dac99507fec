"""The command line as a user meets it: one clear line for a mistake, and a non-zero exit status."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness import cli, store
from harness.record import Record
from tests.commands import apart, rollbench
from tests.factory import record


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "single_turn/tiny-61", "-e", "fake"], "no case 'single_turn/tiny-61': did you mean single_turn/tiny-"),
        (["run", "-e", "sglan"], "no engine 'sglan': did you mean sglang?"),
        (["run", "-e", "vllm"], "build it with `nox -s env-vllm`"),
        (["run", "-e", "fake", "--results", "/proc/nowhere"], "results folder /proc/nowhere cannot be written"),
        (["show", "/no/record.json"], "/no/record.json: cannot be read"),
        (["compare", "one.json"], "compare takes two records"),
        (["compare"], "no records of this machine"),
        (["run", "-e", "fake", "--trace", "/no/trace"], "/no/trace: cannot be read"),
        (["run", "-e", "fake", "--model", "/no/model"], "model path /no/model does not exist"),
        (["run", "-e", "fake", "--model", "tests/nothing"], "model path tests/nothing does not exist"),
        (["run", "weight_sync/tiny-own-vllm-reload", "-e", "fake"], "not run on fake, since another engine's own"),
    ],
)
def test_mistakes_are_one_line(results: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = rollbench(*arguments, ROLLBENCH_HOME=str(tmp_path / "empty"), ROLLBENCH_VLLM_PYTHON="")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("rollbench: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_mistake_is_one_line_of_the_command_itself() -> None:
    done = apart("run", "-e", "sglan")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"rollbench: no engine 'sglan': did you mean sglang\?.*\n", done.stderr)


def test_wrong_options_are_refused_by_name() -> None:
    done = rollbench("run", "--launches", "0")
    assert done.returncode == 2
    assert "launches" in done.stderr


def test_run_ends_with_the_table_and_where_the_records_are(results: Path) -> None:
    done = apart("run", "single_turn/tiny-1", "-e", "fake", "--launches", "2", COLUMNS="120")
    assert done.returncode == 0, done.stderr
    for words in ("case single_turn/tiny-1 (1 of 1)", "launch 1 of 2: fake: waiting for fake to start", "certificates"):
        assert words in done.stdout
    path = re.findall(r"^  (/.*\.json)$", done.stdout, re.MULTILINE)
    assert len(path) == 1
    assert store.load(Path(path[0])).engine == "fake"
    assert Path(path[0]).is_relative_to(results)


def test_dry_run_shows_the_plan_and_starts_nothing(results: Path) -> None:
    done = rollbench("run", "multi_turn", "-e", "fake", "--dry-run", "--launches", "2")
    assert done.returncode == 0
    assert "multi_turn/tiny-shared" in done.stdout
    assert "45 s (a guess)" in done.stdout
    assert not list(results.rglob("*.json*"))


def test_dry_run_shows_which_cases_share_launches(results: Path) -> None:
    done = rollbench("run", "weight_sync/tiny-*", "-e", "fake", "--dry-run", "--launches", "2", COLUMNS="120")
    assert done.returncode == 0, done.stderr
    assert "about 6 min in all" in done.stdout  # 25 + 8 * 20 s, twice
    assert "3 min for its 8 cases (a guess)" in done.stdout
    assert "own" not in done.stdout  # the engines' own ways are not the fake's
    chosen = "run", "single_turn/tiny-1", "single_turn/tiny-16", "-e", "fake", "--dry-run"
    assert "for its" not in rollbench(*chosen, COLUMNS="120").stdout
    assert "65 s for its 2 cases (a guess)" in rollbench(*chosen, "--share", COLUMNS="120").stdout


def test_share_puts_inference_cases_into_one_launch(results: Path) -> None:
    chosen = "run", "single_turn/tiny-1", "single_turn/tiny-16", "-e", "fake", "--launches", "1", "--share"
    done = rollbench(*chosen, COLUMNS="120")
    assert done.returncode == 0, done.stderr
    assert "launch 1 of 1: fake: single_turn/tiny-16 (2 of 2): step 8 of 8" in done.stdout
    assert done.stdout.count("waiting for fake to start") == 1
    shared = [found.launches[0].facts["shared"] for _, found in store.scan(results) if isinstance(found, Record)]
    assert [fact["position"] for fact in shared] == [1, 2]


def test_a_recorded_trace_is_run_as_a_case(results: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    assert rollbench("trace", "single_turn/tiny-1", str(file)).returncode == 0
    done = rollbench("run", "--trace", str(file), "-e", "fake", "--launches", "1")
    assert done.returncode == 0, done.stderr
    ((_, record),) = list(store.scan(results))
    assert isinstance(record, Record)
    assert record.case == "replay/mine"
    assert record.params["trace"].startswith("mine.jsonl (sha256 ")


def test_failed_launches_end_the_command_with_1(results: Path, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\n[ $1 = -c ] && exit 0\necho this interpreter is broken >&2\nexit 3\n")
    broken.chmod(0o755)
    done = rollbench("run", "single_turn/tiny-1", "-e", "vllm", "-e", "fake", ROLLBENCH_VLLM_PYTHON=str(broken))
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if "died in start (exit status 3)" in line]
    assert "this interpreter is broken" not in done.stdout
    assert Path(line.partition("(log: ")[2].rstrip(")")).read_text() == "this interpreter is broken\n"
    assert "3 planned launch(es) gave no figures" in done.stderr
    assert [type(found).__name__ for _, found in store.scan(results)] == ["Record"]  # the fake's


def test_a_sync_that_fails_is_one_line_and_other_cases_go_on(results: Path) -> None:
    done = rollbench("run", "weight_sync/tiny-shm", "single_turn/tiny-1", "-e", "fake", "--launches", "1")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if "failed: " in line]
    assert line.startswith("launch 1 of 1 failed: ")  # the sender's want of torch, else the fake's of weights
    assert " weights for fake: hold failed: " in line or "fake: weights failed: " in line
    assert Path(line.partition("(log: ")[2].rstrip(")")).is_file()
    assert "1 planned launch(es) gave no figures" in done.stderr
    assert [found.case for _, found in store.scan(results) if not isinstance(found, str)] == ["single_turn/tiny-1"]


def test_what_an_engine_cannot_do_is_no_failure(results: Path) -> None:
    done = rollbench("run", "sleep_wake/tiny", "-e", "fake")
    assert done.returncode == 0, done.stderr
    words = "not supported: the fake engine holds no memory of a device"
    assert f"launch 1 of 3: fake: {words}" in done.stdout
    assert "not supported: sleep_wake/tiny on fake: the fake" in done.stdout
    ((path, found),) = list(store.scan(results))
    assert isinstance(found, Record)
    assert words in rollbench("show", str(path), COLUMNS="300").stdout
    assert rollbench("compare").returncode == 0


def test_compare_shows_records_and_passes_alien_files_over(results: Path) -> None:
    for engine, level in (("sglang", 100.0), ("vllm", 150.0)):
        store.save(record(engine, (level, level * 1.01, level * 0.99)), results)
    (results / "alien.json").write_text("{}")
    done = rollbench("compare", "--markdown")
    assert done.returncode == 0
    assert "alien.json: not a record" in done.stderr
    assert re.search(r"\| output \|.*\| 1\.50 \[1\.50, 1\.50\] \|", done.stdout)


def test_compare_refuses_what_differs_and_names_it(results: Path) -> None:
    paths = [store.save(record(params={"model": "tiny-qwen3", "prompts": n}), results) for n in (16, 32)]
    done = rollbench("compare", *map(str, paths))
    assert done.returncode == 2
    assert "params.prompts was 16, now 32" in done.stderr


def test_show_and_list_and_doctor(results: Path) -> None:
    shown = rollbench("show", str(store.save(record(), results)))
    assert "output_throughput: 99, 100, 101" in shown.stdout
    listed = rollbench("list", COLUMNS="160")
    assert "single_turn/tiny-16" in listed.stdout
    assert "main job" in listed.stdout
    assert re.search(r"weight_sync/tiny-own-vllm-reload .* yes, vllm alone", listed.stdout)
    examined = rollbench("doctor")
    assert "cores" in examined.stdout


@pytest.mark.parametrize(
    "command",
    [
        "",
        "run",
        "compare",
        "report",
        "guide",
        "show",
        "list",
        "options",
        "trace",
        "doctor",
        "env",
        "selfcheck",
        "crosscheck",
        "stamp",
        "gate",
        "calibrate",
        "history",
        "check",
        "migrate",
    ],
)
def test_every_command_explains_itself(command: str) -> None:
    helped = CliRunner().invoke(cli.app, [*command.split(), "--help"])
    assert helped.exit_code == 0
    assert len(helped.stdout) > 200


def test_hostile_text_in_a_record_is_shown_as_text(results: Path) -> None:
    hostile = "[red]<script>alert(1)</script>\u202e\x1b[31m"
    path = store.save(record(params={"model": hostile, "prompts": 1}), results)
    assert "[red]<script>" in rollbench("show", str(path)).stdout
    compared = rollbench("compare", "--markdown").stdout
    assert "[red]<script>" in compared
    assert "\x1b" not in compared + rollbench("compare").stdout
    assert json.loads(path.read_text())["params"]["model"] == hostile

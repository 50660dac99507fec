"""A gate's session: order, what is measured again, what ends it; and once whole, on the fake, from two trees."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness import cli, session, store
from harness.errors import UserError
from harness.gate import Cell, Looks, Row
from harness.paths import PROJECT
from harness.record import Certificate, Commit
from harness.session import Session
from harness.trees import Tree
from tests.factory import launch, record

CASE = "single_turn/tiny-16"
SPOILT = {"load": Certificate(ok=False, figure=0.5, reason="others used half the cores")}


def kept(cells: Sequence[Cell]) -> list[Cell]:
    return list(cells)


@dataclass
class Played(Session):
    """Its launches come from `play` (side, engine, pair: the launch's value; None: it fails), not from processes."""

    play: Callable[[str, str, int], float | None] = lambda side, engine, pair: 100.0 + pair
    has: dict[str, list[str]] = field(default_factory=lambda: {"base": [CASE], "head": [CASE]})
    said: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    spoilt: set[tuple[str, int]] = field(default_factory=set)
    refused: str = ""  # a case that the engine cannot do
    asked: list[list[str]] = field(default_factory=list)  # the cases of each launch

    def _prepare(self) -> None:
        self.pythons = dict.fromkeys(self.sides, "python")

    def _ask(self, side: str, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        told = {"known": self.has[side], "chosen": self.has[side], "why": "no case"}
        return subprocess.CompletedProcess(arguments, 0, json.dumps(told), "")

    def _process(self, side: str, arguments: Sequence[str], folder: Path) -> None:
        engine, pair = arguments[arguments.index("-e") + 1], int(folder.name.split("-")[-3])
        self.ran.append(f"{pair} {engine} {side}")
        value = self.play(side, engine, pair)
        folder.mkdir(parents=True)
        (folder / "output.log").write_text("launch 1 of 1 failed: died in start (exit status 3)\nand more\n")
        (folder / "ended").touch()
        self.asked.append(list(arguments[1 : arguments.index("-e")]))
        for case in self.asked[-1] if value else ():
            held = SPOILT if (side, pair) in self.spoilt else {}
            one = launch(1, value or 0, certificates=held)
            if case == self.refused:
                one = one.model_copy(update={"samples": {}, "unsupported": "not here"})
            store.save(record(engine, case=case, run=folder.name, launches=[one]), folder)


def played(folder: Path, pairs: int = 3, more: int = 0, engines: Sequence[str] = ("vllm",), **changes: Any) -> Played:
    tree = Tree("tree", folder, Commit(id="c0ffee", tree="7ee", dirty=False))
    said = list[str]()
    options = {"control": False, "said": said} | changes
    return Played({"base": tree, "head": tree}, [], engines, Looks(pairs, more), kept, folder / "out", 9,
                  lambda text: None, said.append, **options)  # fmt: skip


def verdicts(rows: Sequence[Row]) -> dict[str, str | None]:
    return {row.cell.metric.name if row.cell.metric else "all": row.verdict for row in rows}


def slower(side: str, engine: str, pair: int) -> float:
    return (100.0 + pair % 2) * (0.5 if side == "head" else 1)


def test_sides_and_engines_run_in_abba_order(tmp_path: Path) -> None:
    found = played(tmp_path, engines=("sglang", "vllm"), control=True)
    found.run()
    assert found.ran[:12] == [
        "1 sglang base", "1 sglang head", "1 sglang control", "1 vllm base", "1 vllm head", "1 vllm control",
        "2 vllm control", "2 vllm head", "2 vllm base", "2 sglang control", "2 sglang head", "2 sglang base",
    ]  # fmt: skip
    assert len(found.ran) == 18


def test_a_slow_head_is_a_regression_and_its_records_can_be_judged_again(tmp_path: Path, results: Path) -> None:
    found = played(tmp_path, play=slower)
    assert verdicts(found.run()) == {"output_throughput": "regress", "ttft": "regress"}
    again = CliRunner().invoke(cli.app, ["gate", "--records", *(str(found.folder / s) for s in ("base", "head"))])
    assert again.exit_code == 1
    (path,) = (found.folder / "head").rglob("*.json")
    held = store.load(path)
    assert [(one.order, one.pair) for one in held.launches] == [(1, 1), (2, 2), (3, 3)]
    assert held.run == "out"


def test_equal_sides_pass(tmp_path: Path) -> None:
    noise = {("base", 1): 100.2, ("head", 2): 100.1}
    found = played(tmp_path, 5, play=lambda side, engine, pair: noise.get((side, pair), 100.0))
    assert set(verdicts(found.run()).values()) == {"pass"}


def test_a_case_that_is_refused_joins_no_further_launch(tmp_path: Path) -> None:
    both = ["sleep_wake/0.5B-discard", "sleep_wake/0.5B-kv"]
    found = played(tmp_path, 2, has={"base": both, "head": both}, refused=both[1])
    found.run()
    assert found.asked == [both, both, both[:1], both[:1]]


def test_pairs_that_the_machine_spoilt_are_measured_again(tmp_path: Path) -> None:
    found = played(tmp_path, 3, play=slower, spoilt={("head", 2)})
    rows = found.run()
    assert len(found.ran) == 8
    assert rows[0].cell.pairs == 3
    always = played(tmp_path / "b", 3, play=slower, spoilt={("head", n) for n in range(99)})
    assert verdicts(always.run()) == {"all": "invalid"}
    assert len(always.ran) == 10  # three pairs, and two more
    shared = played(tmp_path / "c", 3, play=slower, spoilt={("head", 2)}, shared=True)
    assert shared.run()[0].cell.pairs == 3
    assert len(shared.ran) == 6


def test_what_is_inconclusive_gets_the_further_pairs_that_were_planned(tmp_path: Path) -> None:
    noisy = {1: 70.0, 2: 130.0, 3: 100.0}
    found = played(
        tmp_path, 3, 4, engines=("sglang", "vllm"),
        play=lambda side, engine, pair: noisy.get(pair, 100.0) if (side, engine) == ("head", "vllm") else 100.0,
    )  # fmt: skip
    rows = found.run()
    assert sum("vllm" in line for line in found.ran) == 14
    assert sum("sglang" in line for line in found.ran) == 6
    assert {(row.cell.engine, row.look) for row in rows} == {("sglang", 1), ("vllm", 2)}
    assert any("4 further pairs, as planned" in line for line in found.said)


def test_a_head_that_fails_is_a_regression_with_its_log_and_ends_early(tmp_path: Path) -> None:
    found = played(tmp_path, 5, play=lambda side, engine, pair: None if side == "head" else 100.0)
    (row,) = found.run()
    assert (row.verdict, len(found.ran)) == ("regress", 4)  # it was given two tries
    assert row.reason.startswith("fails on head alone: died in start (exit status 3) (log: ")
    assert (found.folder / "head" / "failed.jsonl").is_file()


def test_a_launch_that_fails_once_on_head_is_not_passed_over(tmp_path: Path) -> None:
    found = played(tmp_path, 3, play=lambda side, engine, pair: None if (side, pair) == ("head", 2) else 100.0)
    (row,) = found.run()
    assert (row.verdict, len(found.ran)) == ("invalid", 8)
    assert "1 launch(es) failed on head: died in start" in row.reason


def test_what_only_one_side_has_is_measured_once_and_listed(tmp_path: Path) -> None:
    has = {"base": [CASE, "single_turn/gone"], "head": [CASE, "single_turn/new"]}
    found = played(tmp_path, has=has, play=lambda *_: 100.0)
    rows = {row.cell.case: row for row in found.run() if row.cell.metric is None}
    assert rows["single_turn/new"].verdict is None
    assert rows["single_turn/gone"].verdict == "inconclusive"
    assert len(found.ran) == 8
    with pytest.raises(UserError, match="no case"):
        played(tmp_path / "b", has={"base": [], "head": []}).run()


def test_a_control_that_moves_voids_the_session(tmp_path: Path) -> None:
    drifting = {"base": 100.0, "head": 100.0, "control": 80.0}
    found = played(tmp_path, 5, control=True, play=lambda side, engine, pair: drifting[side] + 0.01 * pair)
    rows = found.run()
    assert {row.verdict for row in rows} == {"invalid"}
    assert "the base against itself differs (single_turn/tiny-16 on vllm, output)" in rows[0].reason
    steady = played(tmp_path / "b", 5, control=True, play=lambda side, engine, pair: 100.0 + 0.01 * pair)
    assert {row.verdict for row in steady.run()} == {"pass"}
    assert [row.verdict for row in steady.controls] == ["pass", "pass"]


def test_resuming_takes_launches_that_have_ended(tmp_path: Path) -> None:
    played(tmp_path, 2).run()
    found = played(tmp_path, 3, resume=True)
    found.run()
    assert found.ran == ["3 vllm base", "3 vllm head"]


def tree(folder: Path) -> Path:
    """A copy of this checkout's code."""
    for name in ("harness", "benchmarks", "trainers", "requirements"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))  # half-written
    return folder


def test_two_trees_on_the_fake(tmp_path: Path, results: Path) -> None:
    """A head that takes more than twice as long to generate, by an edit of its worker; other tests on the machine
    change little in steps as long as these."""
    base, head = tree(tmp_path / "base"), tree(tmp_path / "head")
    for side, seconds in ((base, 0.1), (head, 0.25)):
        player = side / "harness" / "worker" / "play.py"
        code, line = player.read_text(), "    seconds = time.perf_counter() - start\n"
        assert line in code
        player.write_text(code.replace(line, f"    await asyncio.sleep({seconds})\n{line}"))
    done = CliRunner().invoke(
        cli.app,
        ["gate", "--base", str(base), "--head", str(head), "-e", "fake", "-c", "single_turn/tiny-1", "--pairs", "3",
         "--no-control", "--shared-machine", "--block", "step_time", "--out", str(tmp_path / "out"),
         "--json", str(tmp_path / "told.json")],
    )  # fmt: skip
    assert done.exit_code == 1, done.output
    rows = {row["metric"]: row for row in json.loads((tmp_path / "told.json").read_text())["rows"]}
    assert rows["step_time"]["verdict"] == "regress"
    assert min(rows["step_time"]["head"]) > 0.25
    assert min(rows["step_time"]["base"]) > 0.1
    assert f"rollbench gate --base {base} --head {head}" in rows["step_time"]["again"]


def test_a_side_that_does_not_run_is_a_mistake(tmp_path: Path) -> None:
    broken = tmp_path / "tree"
    (broken / "harness").mkdir(parents=True)
    (broken / "harness" / "__init__.py").touch()
    (broken / "harness" / "cli.py").write_text("raise SystemExit('this tree is broken')")
    (broken / "requirements").mkdir()
    shutil.copy(PROJECT / "requirements" / "light.txt", broken / "requirements")
    sides = dict.fromkeys(("base", "head"), Tree("x", broken, Commit(id="c", tree="t", dirty=False)))
    found = Session(sides, [], ["fake"], Looks(2), kept, tmp_path / "out", 9, lambda _: None, lambda _: None)
    with pytest.raises(UserError, match=r"base \(x\): no environment for fake: this tree is broken"):
        found.run()


def test_what_a_launch_died_of_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("case x (1 of 1)\nlaunch 1 of 1: y failed: vllm: died in step\n--- the end\nrollbench: 1 planned\n")
    assert session._error(log) == "vllm: died in step"
    log.write_text("Traceback\n\nImportError: nothing\n\n")
    assert session._error(log) == "ImportError: nothing"

"""Runs on the fake: order, resuming, and what is kept when something dies."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from benchmarks.replay import Replay
from benchmarks.single_turn import SingleTurn
from harness import client, envs, lock, runner, shift, store
from harness.envs import Environment
from harness.errors import LaunchFailed, UserError
from harness.pending import Pending
from harness.record import Commit, Record
from harness.scenario import Options, Scenario
from harness.store import scan
from tests.commands import rollbench

CASE = SingleTurn(model="tiny-qwen3", prompts=4, input_tokens=20, output_tokens=5, steps=3)
NAME = "single_turn/test"
MACHINE = {"steady", "gpu", "load"}  # certificates that other tests on the machine may break


def case(**native: Any) -> SingleTurn:
    return replace(CASE, options=Options(native={"fake": native}))


def broken(record: Record) -> set[str]:
    """Certificates that did not hold in some launch."""
    return {name for launch in record.launches for name, c in launch.certificates.items() if c.ok is False}


def two_fakes() -> list[Environment]:
    """Two engines with names of their own, both the fake."""
    fake = envs.find("fake")
    return [fake, replace(fake, lane="other")]


def run(
    root: Path, scenario: Scenario, *, launches: int = 2, resume: bool = False
) -> tuple[list[Record], int, list[str]]:
    said: list[str] = []
    plan = runner.Run([envs.find("fake")], launches, root, resume, 20, lambda text: None, said.append)
    written, failed = plan.cases({NAME: scenario})
    return [store.load(path) for path in written], failed, said


@pytest.mark.parametrize("dirty", [True, False])
def test_files_of_no_commit_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dirty: bool) -> None:
    monkeypatch.setattr(runner.commit, "current", lambda: Commit(id="c", tree="t", dirty=dirty))
    _, _, said = run(
        tmp_path, SingleTurn(model="tiny-qwen3", prompts=1, output_tokens=2, warmup=1, steps=1), launches=1
    )
    assert any("the files are not those of a commit" in line for line in said) is dirty


def test_order_is_abba() -> None:
    a, b = two_fakes()
    plan = runner.Run([a, b], 3, Path(), False, 1, print, print)
    slots = plan.schedule()
    assert [slot.environment for slot in slots] == [a, b, b, a, a, b]
    assert [slot.pair for slot in slots] == [1, 1, 2, 2, 3, 3]
    assert [slot.order for slot in slots] == [1, 2, 3, 4, 5, 6]


def test_a_run_leaves_one_record_with_every_sample(tmp_path: Path) -> None:
    (record,), failed, _ = run(tmp_path, CASE)
    assert failed == 0
    assert broken(record) <= MACHINE
    assert len(record.launches) == 2
    for launch in record.launches:
        assert len(launch.samples["output_throughput"]) == CASE.steps
        assert len(launch.samples["startup"]) == 1
        assert set(launch.certificates) == {"workload", "counts", "cache", "client", "clean"} | MACHINE
        assert len(launch.facts["workload_sha256"]) == CASE.steps
        assert launch.age_s is not None
        assert launch.age_s > 0
        assert "load_average" in launch.machine_state["before"]
    assert record.launches[0].facts["workload_sha256"] == record.launches[1].facts["workload_sha256"]
    assert record.commit.id
    assert record.lock_hash
    (folder,) = [path for path in tmp_path.rglob("fake-*") if path.is_dir()]
    kept = sorted(path.name.split(".", 1)[1] for path in folder.iterdir())
    assert kept == ["requests.json.gz", "requests.json.gz", "series.jsonl.gz", "series.jsonl.gz"]
    assert not list((tmp_path / ".work" / "pending").iterdir())


@pytest.mark.parametrize(
    ("native", "certificate"),
    [
        ({"flush_does_nothing": True}, None),  # fresh prompts each step: an old cache gives no hit
        ({"tokens_short": 1}, "counts"),
        ({"prompt_cut": True}, "workload"),
        ({"block": 0.06}, "client"),
    ],
)
def test_certificates_turn_red(tmp_path: Path, native: dict[str, Any], certificate: str | None) -> None:
    scenario = replace(case(**native), rate=40.0, output_tokens=2)
    (record,), _, said = run(tmp_path, scenario, launches=1)
    assert broken(record) - MACHINE == ({certificate} if certificate else set())
    assert not certificate or any(f"invalid ({certificate}: " in line for line in said)


def test_a_warm_cache_turns_its_certificate_red(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(json.dumps({"turns": [{"prompt": list(range(64)), "output": 2}]}) + "\n")
    replayed = Replay(model="tiny-qwen3", trace=str(trace), options=case(flush_does_nothing=True).options)
    (record,), _, _ = run(tmp_path, replayed, launches=1)
    assert "cache" in broken(record)


def test_engine_that_dies_in_the_middle_costs_only_its_launch(tmp_path: Path) -> None:
    written, failed, said = run(tmp_path, case(die_at_answer=13), launches=2)
    assert (written, failed) == ([], 2)
    first, second = [line for line in said if "failed" in line]
    for line in (first, second):
        assert "\n" not in line
        assert ": fake: died in generate (exit status 9) (log: " in line
        assert "told to die now" in Path(line.partition("(log: ")[2].rstrip(")")).read_text()


def test_engine_that_dies_once_leaves_the_record_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = shift.measure, []

    def flaky(*arguments: Any) -> None:
        calls.append(1)
        measure(*arguments)
        if len(calls) == 2:
            raise LaunchFailed(f"fake: died in generate (log: {tmp_path}/.work/logs/x)")

    monkeypatch.setattr(shift, "measure", flaky)
    (record,), failed, _ = run(tmp_path, CASE, launches=3)
    assert failed == 1
    told = "fake: died in generate (log: results/.work/logs/x)"  # no place of this machine
    assert [launch.error for launch in record.launches] == [None, told, None]
    assert len(record.samples("output_throughput")) == 2


def test_engine_that_cannot_start_is_not_started_again(tmp_path: Path) -> None:
    written, failed, said = run(tmp_path, case(die_at_start=True), launches=3)
    assert (written, failed) == ([], 3)
    assert sum("skipped" in line for line in said) == 2


@dataclass(frozen=True, kw_only=True)
class Own(SingleTurn):
    """A case of one engine alone, which may share its launch."""

    shares: ClassVar[str] = "weights"
    mine: str = "fake"

    @property
    def engines(self) -> tuple[str, ...]:
        return (self.mine,) if self.mine else ()


def test_an_engines_own_case_is_not_run_on_another(tmp_path: Path) -> None:
    own = Own(**vars(CASE))
    said, told = list[str](), list[str]()
    fake = envs.find("fake")
    other = replace(fake, engine="other", python="/no/python")  # which could not even be started
    plan = runner.Run([other, fake], 2, tmp_path, False, 20, told.append, said.append)
    (path,), missing = plan.cases({NAME: own})
    assert missing == 0
    assert [(launch.order, launch.pair) for launch in store.load(path).launches] == [(1, 1), (2, 2)]
    assert said.count(f"not run on other, since they are another engine's own: {NAME}") == 1
    assert sum("not run on" in line for line in said) == 1
    assert any("launch 2 of 2: fake" in line for line in said)
    assert plan.ahead == []
    assert not any("other" in text for text in told)


def test_of_cases_that_share_a_launch_only_those_of_the_engine_are_measured(tmp_path: Path) -> None:
    own = Own(**vars(CASE))
    cases = {NAME: replace(own, mine=""), f"{NAME}-own": replace(own, mine="other"), f"{NAME}-2": own}
    said = list[str]()
    plan = runner.Run([envs.find("fake")], 2, tmp_path, False, 20, lambda text: None, said.append)
    written, missing = plan.cases(cases)
    records = [store.load(path) for path in written]
    assert missing == 0
    assert {record.case for record in records} == {NAME, f"{NAME}-2"}
    for record in records:
        assert [launch.facts["shared"]["cases"] for launch in record.launches] == [
            [NAME, f"{NAME}-2"], [f"{NAME}-2", NAME],
        ]  # fmt: skip
    assert f"not run on fake, since they are another engine's own: {NAME}-own" in said


def test_hang_is_ended_by_the_time_out(tmp_path: Path) -> None:
    plan = runner.Run([envs.find("fake")], 1, tmp_path, False, 1.0, lambda text: None, lambda text: None)
    start = time.monotonic()
    assert plan.cases({NAME: case(hang_at_answer=2)}) == ([], 1)
    assert time.monotonic() - start < 15


def test_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = runner.Run._launch
    count: list[int] = []

    def interrupted(self: runner.Run, *arguments: Any) -> Any:
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return launch(self, *arguments)

    monkeypatch.setattr(runner.Run, "_launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, CASE, launches=4)
    assert launches_kept(tmp_path) == 2
    (record,), failed, said = run(tmp_path, CASE, launches=4, resume=True)
    assert len(record.launches) == 4
    assert failed == 0
    assert sum("is there from the interrupted run" in line for line in said) == 2
    assert len(count) == 5


def test_a_budget_ends_a_run_in_time_and_resuming_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = {f"{NAME}-{number}": replace(CASE, prompts=number) for number in (2, 3, 4)}

    def plan(until: float, *, resume: bool) -> runner.Run:
        fake, quiet = envs.find("fake"), lambda text: None
        return runner.Run([fake], 1, tmp_path, resume, 20, quiet, quiet, share=True, until=until)

    with pytest.raises(runner.BudgetSpent):  # no launch of which nothing is known fits into 5 s
        (first := plan(time.monotonic() + 5, resume=False)).cases(same)
    assert first.kept == 0
    monkeypatch.setattr(runner.Run, "_in_time", lambda self, seconds: self.kept < 2)
    with pytest.raises(runner.BudgetSpent):
        (second := plan(0, resume=True)).cases(same)
    assert second.kept == 2
    assert [store.load(path).case for path in second.written] == list(same)[:2]  # of those that lack nothing
    monkeypatch.undo()
    assert len(plan(math.inf, resume=True).cases(same)[0]) == 3
    assert {r.launches[0].facts["shared"]["position"] for _, r in scan(tmp_path) if isinstance(r, Record)} == {1, 2}


def test_resuming_a_run_of_many_cases_measures_none_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch, count = runner.Run._launch, list[int]()

    def interrupted(self: runner.Run, *arguments: Any) -> Any:
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return launch(self, *arguments)

    monkeypatch.setattr(runner.Run, "_launch", interrupted)
    two = {NAME: CASE, f"{NAME}-2": replace(CASE, prompts=5)}

    def plan(resume: bool) -> runner.Run:
        return runner.Run([envs.find("fake")], 2, tmp_path, resume, 20, lambda text: None, lambda text: None)

    with pytest.raises(KeyboardInterrupt):
        (first := plan(resume=False)).cases(two)
    assert first.kept == 3
    written, missing = plan(resume=True).cases(two)
    assert (len(written), missing, len(count)) == (2, 0, 5)
    assert len([found for _, found in scan(tmp_path)]) == 2
    assert not list((tmp_path / ".work" / "pending").iterdir())


def test_a_failing_close_keeps_the_figures_and_breaks_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: client.Worker, timeout: float) -> list[str]:
        raise LaunchFailed("fake: close failed")

    monkeypatch.setattr(client.Worker, "close", fail)
    (record,), missing, _ = run(tmp_path, CASE, launches=1)
    assert missing == 0
    assert "launch 1, clean: fake: close failed" in record.broken


def test_other_plans_are_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.store, "save", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, CASE, launches=1)
    monkeypatch.undo()
    _, _, said = run(tmp_path, replace(CASE, prompts=5), launches=1, resume=True)
    assert any("nothing to resume" in line for line in said)
    _, _, said = run(tmp_path, CASE, launches=1, resume=True)
    assert any("interrupted run" in line for line in said)


def test_half_a_pair_of_another_boot_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"launch": {"order": 1, "pair": 1, "started": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:00:01Z"}}
    pending = Pending.open(tmp_path, {}, resume=False)
    a, b = two_fakes()
    slots = runner.Run([a, replace(b, engine="second")], 1, tmp_path, False, 1, print, print).schedule()
    here = runner.machine.boot_id()
    for boots, usable in (((here, None), True), (("old", None), False), (("old", "old"), True), (("old", here), False)):
        for slot, boot in zip(slots, boots, strict=True):
            path = pending.folder / f"{slot.environment.engine}-{slot.order}.json"
            path.unlink(missing_ok=True)
            if boot:
                path.write_text(json.dumps({"launch": part["launch"] | {"order": slot.order, "boot_id": boot}}))
        assert runner._usable(pending, slots, slots[0]) == usable, boots


def test_damaged_launch_of_an_interrupted_run_is_measured_anew(tmp_path: Path) -> None:
    pending = Pending.open(tmp_path, {}, resume=False)
    (pending.folder / "fake-1.json").write_text('{"launch": {')
    assert pending.load("fake", 1) is None
    assert list(pending.parts("fake")) == []


def test_second_run_waits_or_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROLLBENCH_LOCK", str(tmp_path / "lock"))
    refused = pytest.raises(UserError, match=r"another run \(process \d+\) is measuring")
    with lock.alone(wait=True, report=print), refused, lock.alone(False, print):
        pass
    with lock.alone(wait=False, report=print):
        pass


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_processes_and_resume_goes_on(results: Path, how: signal.Signals) -> None:
    command = ("run", "single_turn/tiny-16", "-e", "fake", "--launches", "5")
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while launches_kept(results) < 2:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(how)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "--resume" in errors
    deadline = time.monotonic() + 5  # a worker caught at its very start ends itself, as its pipe is closed
    while workers_of(results) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert workers_of(results) == []
    kept = launches_kept(results)
    assert f"interrupted: {kept} finished launches" in errors
    again = rollbench(*command, "--resume")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is there from the interrupted run") == kept
    ((_, record),) = list(scan(results))
    assert isinstance(record, Record)
    assert len(record.launches) == 5


def launches_kept(root: Path) -> int:
    return len(list((root / ".work" / "pending").glob("*/*-*.json")))


def workers_of(results: Path) -> list[psutil.Process]:
    """Workers that are alive and were started by a run into this folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if "harness.worker" in (process.info["cmdline"] or []):
                found += [process] if process.environ().get("ROLLBENCH_RESULTS") == str(results) else []
        except psutil.NoSuchProcess:
            continue
    return found

"""Several cases in one launch, on the fake: what each record says, and what is kept when one of them fails."""

import gzip
import itertools
import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.single_turn import SingleTurn
from harness import envs, rig, runner, shift, store, tables
from harness.record import Launch, Record
from harness.rig import Rig
from harness.scenario import Options, Scenario

A, B, C = "single_turn/a", "single_turn/b", "single_turn/c"


@dataclass(frozen=True, kw_only=True)
class Shared(SingleTurn):
    """A case that shares launches."""

    shares = True


class Deadly(Shared):
    """A case in which the engine dies."""

    def step(self, rig: Rig, index: int) -> dict[str, float]:
        os.kill(rig.worker.pid, signal.SIGKILL)
        return super().step(rig, index)


class Interrupted(Shared):
    """A case in which the user presses Ctrl-C, once."""

    done = False

    def step(self, rig: Rig, index: int) -> dict[str, float]:
        if not Interrupted.done:
            Interrupted.done = True
            raise KeyboardInterrupt
        return super().step(rig, index)


ONE = Shared(model="tiny-qwen3", prompts=4, input_tokens=20, output_tokens=5, steps=3)
THREE: dict[str, Scenario] = {A: ONE, B: replace(ONE, prompts=2, steps=4), C: replace(ONE, prompts=3)}


class Ran:
    """A run of cases on the fake, with all that it said."""

    def __init__(self, root: Path, cases: dict[str, Scenario], launches: int = 2, resume: bool = False) -> None:
        self.said, self.told = list[str](), list[str]()
        fake = envs.find("fake")
        run = runner.Run([fake], launches, root, resume, 20, self.told.append, self.said.append)
        written, self.missing = run.cases(cases)
        self.records: dict[str, Record] = {record.case: record for record in map(store.load, written)}
        self.files = {store.load(path).case: path.with_suffix("") for path in written}


def places(record: Record) -> list[tuple[str, int]]:
    """Of each launch: the last letters of the cases in it, and the place of this one."""
    shared = [launch.facts["shared"] for launch in record.launches]
    return [("".join(name[-1] for name in fact["cases"]), fact["position"]) for fact in shared]


def kept(folder: Path, name: str) -> list[str]:
    """The rows of every launch's file of that name."""
    return [gzip.decompress(path.read_bytes()).decode() for path in sorted(folder.glob(f"*.{name}.gz"))]


def test_one_launch_measures_all_and_every_record_says_so(tmp_path: Path) -> None:
    ran = Ran(tmp_path, THREE)
    assert ran.missing == 0
    assert places(ran.records[A]) == [("abc", 1), ("bca", 3)]
    assert places(ran.records[B]) == [("abc", 2), ("bca", 1)]
    assert places(ran.records[C]) == [("abc", 3), ("bca", 2)]
    for name, case in THREE.items():
        record = ran.records[name]
        assert [launch.order for launch in record.launches] == [1, 2]
        for launch in record.launches:
            assert len(launch.samples["step_time"]) == len(launch.facts["workload_sha256"]) == case.steps
            assert {"workload", "counts", "cache", "client", "clean"} <= launch.certificates.keys()
            assert all(launch.certificates[name].ok is not False for name in ("workload", "counts", "cache", "clean"))
        for requests in kept(ran.files[name], "requests.json"):
            assert [len(call["due"]) for call in json.loads(requests)] == [case.params()["prompts"]] * case.steps
        assert len(kept(ran.files[name], "series.jsonl")) == 2
    first = [ran.records[name].launches[0] for name in THREE]
    assert len({launch.samples["startup"][0] for launch in first}) == 1
    assert "case 2 of 3 in its launch: single_turn/a, single_turn/b, single_turn/c" in shown(ran.records[B])
    assert f"cases {A}, {B}, {C} (1 to 3 of 3), in turn in each launch" in ran.said
    assert any(text.startswith(f"launch 2 of 2: fake: {C} (2 of 3): step 3 of 3; about ") for text in ran.told)
    assert any(text.startswith(f"launch 1 of 2: fake: {B} took ") for text in ran.said)


def shown(record: Record) -> str:
    return " ".join(str(cell) for column in tables.of_record(record).columns for cell in column.cells)


def test_an_interpreter_that_vanishes_behind_the_search_fails_the_launch(tmp_path: Path) -> None:
    said, gone = list[str](), replace(envs.find("fake"), python=str(tmp_path / "python"))
    written, missing = runner.Run([gone], 2, tmp_path, False, 20, print, said.append).cases({A: ONE})
    assert (written, missing) == ([], 2)
    assert f"launch 1 of 2 failed: fake: {tmp_path}/python does not start ([Errno 2] No such" in "\n".join(said)
    assert said[-1] == "launch 2 of 2: fake skipped, it could not be started before"
    assert not any("\n" in line for line in said)


def test_a_case_that_never_shares_says_nothing_of_it(tmp_path: Path) -> None:
    ran = Ran(tmp_path, {A: ONE}, launches=1)
    assert "shared" not in ran.records[A].launches[0].facts
    assert f"case {A} (1 of 1)" in ran.said


def test_windows_of_cases_in_one_launch_lie_apart(tmp_path: Path) -> None:
    slow = Options(native={"fake": {"seconds_per_token": 0.02}})
    ran = Ran(tmp_path, {name: replace(case, options=slow) for name, case in THREE.items()}, launches=1)
    launches = [ran.records[name].launches[0] for name in THREE]
    for earlier, later in itertools.pairwise(launches):
        assert earlier.ended <= later.started
        assert age(earlier) + earlier.facts["window"]["seconds"] < age(later)
    for launch in launches:
        assert launch.facts["window"]["seconds"] == pytest.approx(sum(launch.samples["step_time"]), rel=0.5)


def age(launch: Launch) -> float:
    assert launch.age_s is not None
    return launch.age_s


def test_a_case_begins_with_an_empty_prefix_cache(tmp_path: Path) -> None:
    warm = replace(ONE, flush=False, input_tokens=64)
    ran = Ran(tmp_path, {A: warm, B: warm}, launches=1)
    assert ran.records[A].workload == ran.records[B].workload
    assert [ran.records[name].launches[0].certificates["cache"].figure for name in (A, B)] == [0, 0]


def test_a_failure_in_the_middle_keeps_what_was_measured_and_the_rest_gets_a_fresh_launch(tmp_path: Path) -> None:
    ran = Ran(tmp_path, THREE | {B: Deadly(**vars(ONE))}, launches=1)
    assert ran.missing == 1
    assert list(ran.records) == [A, C]
    (first,), (last,) = ran.records[A].launches, ran.records[C].launches
    assert len(first.samples["step_time"]) == len(last.samples["step_time"]) == 3
    assert (places(ran.records[A]), places(ran.records[C])) == ([("abc", 1)], [("c", 1)])
    assert first.certificates["clean"].ok is None
    assert f"killed: {B}: fake: died in " in first.certificates["clean"].reason
    assert last.certificates["clean"].ok is True
    assert first.order == last.order == 1
    assert first.samples["startup"] != last.samples["startup"]
    assert any(line.startswith(f"launch 1 of 1: {B} failed: fake: died in ") for line in ran.said)


def test_the_record_of_a_case_that_failed_once_holds_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate, killed = Rig.generate, list[int]()

    def once(self: Rig, *arguments: Any, **more: Any) -> Any:
        if self.log.parts[-3] == "b" and not killed:
            killed.append(1)
            os.kill(self.worker.pid, signal.SIGKILL)
        return generate(self, *arguments, **more)

    monkeypatch.setattr(Rig, "generate", once)
    ran = Ran(tmp_path, THREE)
    assert ran.missing == 1
    failed, good = ran.records[B].launches
    assert failed.error is not None
    assert failed.samples == {}
    assert failed.facts == {"shared": {"cases": [A, B, C], "position": 2}}
    assert good.error is None
    assert [len(ran.records[name].good) for name in THREE] == [2, 1, 2]


def test_an_engine_that_cannot_start_is_the_error_of_all_and_not_started_again(tmp_path: Path) -> None:
    broken = Options(native={"fake": {"die_at_start": True}})
    ran = Ran(tmp_path, {name: replace(case, options=broken) for name, case in THREE.items()})
    assert (ran.records, ran.missing) == ({}, 6)
    assert sum("launch 1 of 2 failed: fake: start failed" in line for line in ran.said) == 1
    assert sum("waiting for fake to start" in text for text in ran.told) == 1
    assert sum("skipped" in line for line in ran.said) == 1


def test_resuming_in_the_middle_of_a_launch_measures_only_the_rest(tmp_path: Path) -> None:
    Interrupted.done = False
    cases = THREE | {B: Interrupted(**vars(ONE))}
    with pytest.raises(KeyboardInterrupt):
        Ran(tmp_path, cases)
    ran = Ran(tmp_path, cases, resume=True)
    assert ran.missing == 0
    assert places(ran.records[A]) == [("abc", 1), ("bca", 3)]
    assert places(ran.records[B]) == [("bc", 1), ("bca", 1)]
    assert places(ran.records[C]) == [("bc", 2), ("bca", 2)]
    assert "launch 1 of 2: fake with 1 of 3 cases is there from the interrupted run" in ran.said
    clean = ran.records[A].launches[0].certificates["clean"]
    assert (clean.ok, clean.reason.partition("killed: ")[2]) == (None, shift.INTERRUPTED)


def test_a_case_is_saved_before_its_launch_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: Rig, failed: str = "") -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Rig, "shut_down", killed)
    with pytest.raises(KeyboardInterrupt):
        Ran(tmp_path, THREE, launches=1)
    monkeypatch.undo()
    ran = Ran(tmp_path, THREE, launches=1, resume=True)
    assert not ran.told  # nothing was started
    for name, case in THREE.items():
        (launch,) = ran.records[name].launches
        assert launch.certificates["clean"] == shift.NOT_ENDED
        assert len(launch.samples["step_time"]) == case.steps
        assert len(kept(ran.files[name], "series.jsonl")) == 1


def test_another_group_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Interrupted.done = False
    with pytest.raises(KeyboardInterrupt):
        Ran(tmp_path, THREE | {B: Interrupted(**vars(ONE))})
    ran = Ran(tmp_path, {A: ONE}, launches=2, resume=True)
    assert any("nothing to resume" in line for line in ran.said)
    assert "shared" not in ran.records[A].launches[0].facts


def test_the_sender_of_one_case_is_gone_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened = list[str]()

    class Link:
        senders: tuple[Any, ...] = ()

        def __init__(self, rig: Rig, transport: str, how: str) -> None:
            self.facts = {"transport": transport}
            happened.append(f"open {transport}")

        def end(self) -> list[str]:
            happened.append("close")
            return []

        def close(self) -> None:
            happened.append("end")

        def __enter__(self) -> "Link":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    @dataclass(frozen=True, kw_only=True)
    class Syncing(Shared):
        transport: str

        def step(self, rig: Rig, index: int) -> dict[str, float]:
            rig.link(self.transport, "copies")
            return super().step(rig, index)

    monkeypatch.setattr(rig, "Link", Link)
    cases = {name: Syncing(**vars(ONE), transport=transport) for name, transport in ((A, "shm"), (B, "disk"))}
    ran = Ran(tmp_path, dict(cases), launches=1)
    assert happened == ["open shm", "close", "end", "open disk", "close", "end"]
    assert [ran.records[name].launches[0].facts["link"]["transport"] for name in cases] == ["shm", "disk"]

"""asv's side: its environment, its benchmarks, and the tracked records as its results."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from asv import config
from asv.environment import get_environment_class
from asv.results import Results

from benchmarks.asv import engines
from harness import asv_environment, asv_history, commit, store
from harness.paths import PROJECT
from harness.record import Certificate, Commit, Record
from tests.factory import launch, record


def test_a_range_of_commits_gets_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    conf = config.Config.load("asv.conf.json")
    assert conf.plugins == [".harness.asv_environment"]
    assert get_environment_class(conf, "3.11") is asv_environment.Ready
    conf.env_dir = str(tmp_path)
    environment = asv_environment.Ready(conf, "3.11", {}, {})
    environment.create()
    done = environment.run(["-c", "import sys; print(sys.executable)"])
    assert done.strip().endswith("python") or "python" in done
    checked: list[str] = []
    monkeypatch.setattr(environment, "checkout_project", lambda repo, commit_hash: checked.append(commit_hash))
    environment.install_project(conf, None, "c0ffee")
    (Path(environment._build_root) / "harness").mkdir(parents=True)
    (Path(environment._build_root) / "harness" / "__init__.py").write_text("WHICH = 'that commit'\n")
    assert environment.run(["-c", "import harness; print(harness.WHICH)"], cwd=str(tmp_path)).strip() == "that commit"
    assert checked == ["c0ffee"]


def test_asv_never_gets_six_samples_nor_fewer_than_were_planned() -> None:
    assert engines.LAUNCHES == 8
    assert engines._samples([1.0] * 8) == {"samples": [1.0] * 8, "number": 1}
    with pytest.raises(RuntimeError, match="7 of 8 launches gave figures"):
        engines._samples([1.0] * 7)


def test_launches_become_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str) -> None:
        if arguments[0] == "run":
            held = record("fake", tuple(100.0 + n for n in range(8)))
            store.save(held, Path(next(a for a in arguments if a.startswith("--results=")).removeprefix("--results=")))

    monkeypatch.setattr(engines, "rollbench", run)
    monkeypatch.setattr(engines, "ENGINES", ["fake"])
    found = engines.Rollout().setup_cache()
    assert found["fake"]["output_throughput"] == [1000 / (100.0 + n) for n in range(8)]
    assert found["fake"]["ttft"][0] == pytest.approx(10)
    assert found["fake"]["peak_memory"] == []


@pytest.fixture
def ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commits of a repository that the harness takes for its own."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    for number in range(2):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", str(number)], check=True)
    monkeypatch.setattr(commit.git, "__kwdefaults__", {"tree": folder})
    return subprocess.run([*git, "log", "--format=%H"], check=True, capture_output=True, text=True).stdout.split()


def held(number: str, level: float, **changes: Any) -> Record:
    return record(**({"commit": Commit(id=number, tree="t", dirty=False), "values": (level, level)} | changes))


def test_tracked_records_become_asvs_results(tmp_path: Path, ids: list[str]) -> None:
    broken = [launch(1, 1.0, certificates={"cache": Certificate(ok=False, figure=1, reason="warm")})]
    for found in (
        held(ids[0], 100.0), held(ids[0], 50.0, engine="sglang"), held(ids[1], 200.0), held("f" * 40, 9.0),
        held(ids[1], 1.0, engine="sglang", launches=broken), held("unknown", 1.0, engine="sglang"),
    ):  # fmt: skip
        found.launches[0].samples["clipped"] = [0.0]  # of no cost: neither direction is good
        store.save(found, tmp_path / "results")
    into = tmp_path / "asv"
    (into).mkdir()
    (into / "benchmarks.json").write_text(json.dumps({"version": 2, "mine": {"name": "mine"}}))
    assert asv_history.write(tmp_path / "results", into) == 3
    told = json.loads((into / "benchmarks.json").read_text())
    assert told.keys() == {"version", "mine", "single_turn.tiny-16.output_throughput", "single_turn.tiny-16.ttft"}
    (path,) = into.rglob(f"{ids[0][:8]}-*.json")
    found = Results.load(str(path))
    name = "single_turn.tiny-16.output_throughput"
    assert found.get_result_value(name, [["'sglang'", "'vllm'"]]) == [20.0, 10.0]  # seconds per 1,000 tokens
    assert found.get_result_samples(name, [["'sglang'", "'vllm'"]]) == [[20.0, 20.0], [10.0, 10.0]]
    assert (path.parent / "machine.json").is_file()


def test_every_tracked_record_has_its_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asv_history, "_date", lambda commit, known: 0)  # a clone may have a part of the history
    assert asv_history.write(PROJECT / "results", tmp_path) > 50
    told = json.loads((tmp_path / "benchmarks.json").read_text())
    cases = {record.case.replace("/", ".") for record in asv_history._records(PROJECT / "results")}
    assert [case for case in cases if not any(name.startswith(f"{case}.") for name in told)] == []


def test_asv_is_told_of_a_machine_that_it_has_not_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    asv_environment.make_known()
    known = (tmp_path / ".asv-machine.json").read_text()
    asv_environment.make_known()
    assert (tmp_path / ".asv-machine.json").read_text() == known

"""Tests of claims: what records must say for each verdict."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness import evidence, findings, machine, probes, standings, store, together
from harness.claims import CLAIMS, Claim, judge
from harness.findings import Says, Test
from harness.record import Certificate, Record
from harness.standings import Standing
from tests.factory import launch, record

GPU = machine.fingerprint().model_copy(update={"id": "1x-h100", "gpus": ("NVIDIA H100 80GB",)})
CPU = machine.fingerprint().model_copy(update={"id": "a-cpu", "gpus": ()})
CASE = "single_turn/tiny-16"


def shown(root: Path, *records: Record) -> list[Standing]:
    for one in records:
        store.save(one, root)
    return list(standings.standings(evidence.read(root)))


def says(test: Test, found: list[Standing], metric: str = "output_throughput", speed: bool = False) -> Says:
    return judge(Claim("Quick decision", "text", test, ("*",), metric, speed), found).says


def pair(vllm: tuple[float, ...], **changes: Any) -> list[Record]:
    return [record("sglang", (100.0, 101.0, 99.0), **changes), record("vllm", vllm, **changes)]


FASTER, SLOWER, ALIKE, NOISY = (150.0, 151.0, 149.0), (50.0, 51.0, 49.0), (100.0, 101.0, 99.0), (60.0, 170.0, 110.0)


@pytest.mark.parametrize(
    ("values", "faster", "similar"),
    [(FASTER, Says.HOLDS, Says.FAILS), (SLOWER, Says.FAILS, Says.FAILS), (ALIKE, Says.FAILS, Says.HOLDS),
     (NOISY, Says.OPEN, Says.OPEN), ((150.0,), Says.OPEN, Says.OPEN)],
)  # fmt: skip
def test_faster_and_similar(tmp_path: Path, values: tuple[float, ...], faster: Says, similar: Says) -> None:
    found = shown(tmp_path, *pair(values))
    assert says(findings.faster("vllm"), found) == faster
    assert says(findings.similar(), found) == similar


def test_no_finding_says_more_than_the_gate(tmp_path: Path) -> None:
    (one,) = found = shown(tmp_path, *pair((50.0, 70.5, 53.0)))
    high = one.ratios["output_throughput"].estimate.high
    assert (high is not None and high < 0.9, one.verdicts["output_throughput"]) == (True, "inconclusive")
    assert says(findings.similar(), found) == Says.OPEN
    other = record("vllm", (99.0, 101.0, 95.0), case=f"{CASE}-eager")  # its interval lies below 1, by too little
    found = shown(tmp_path / "two", record("vllm", (100.0, 102.0, 96.0)), other)
    assert says(findings.better_than("vllm", "eager"), found) != Says.HOLDS


def test_lower_is_better_for_a_time(tmp_path: Path) -> None:
    found = shown(tmp_path, *pair(FASTER))  # ttft is 1 / throughput
    assert says(findings.faster("vllm"), found, "ttft") == Says.HOLDS


def test_nothing_is_said_of_what_was_not_measured(tmp_path: Path) -> None:
    found = shown(tmp_path, record("vllm"))
    for test in (findings.faster("vllm"), findings.similar(), findings.about("sglang", 1.0), findings.runs("sglang")):
        assert says(test, found) == Says.NONE
    assert says(findings.about("vllm", 1.0), found, "sync_latency") == Says.NONE


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(0.01, Says.HOLDS), (0.5, Says.FAILS), (0.0140, Says.HOLDS), (0.0150, Says.OPEN)]
)
def test_about_so_many_seconds(tmp_path: Path, seconds: float, verdict: Says) -> None:
    found = shown(tmp_path, record("vllm"))  # 10.0 ms [9.8, 10.3]
    assert says(findings.about("vllm", seconds), found, "ttft") == verdict


def test_at_most(tmp_path: Path) -> None:
    memory = [launch(i, 1, samples={"memory_asleep": [value]}) for i, value in enumerate((0.5, 0.51, 0.49), 1)]
    found = shown(tmp_path, record("sglang", launches=memory))
    assert [says(findings.at_most("sglang", limit), found, "memory_asleep") for limit in (1.0, 0.5, 0.4)] == [
        Says.HOLDS, Says.OPEN, Says.FAILS,
    ]  # fmt: skip


def test_an_engine_does_it_refuses_fails_or_is_invalid(tmp_path: Path) -> None:
    refuses = [launch(1, 1, samples={}, unsupported="no sleep here")]
    fails = [launch(1, 1, samples={}, error="died\nof this")]
    bad = [launch(1, 1, certificates={"proof": Certificate(ok=False, figure=1, reason="other bytes")})]
    for name, launches, gpu, verdict in (
        ("does", [launch(1, 1)], CPU, Says.HOLDS), ("refuses", refuses, GPU, Says.FAILS),
        ("refuses-cpu", refuses, CPU, Says.NONE), ("fails", fails, GPU, Says.OPEN), ("bad", bad, GPU, Says.NONE),
    ):  # fmt: skip
        found = shown(tmp_path / name, record("vllm", launches=launches, machine=gpu))
        assert says(findings.runs("vllm"), found) == verdict, name
    found = shown(tmp_path / "does-not", record("vllm", launches=refuses, machine=GPU))
    assert says(findings.runs("vllm", yes=Says.FAILS), found) == Says.HOLDS


def test_an_attention_backend_on_a_gpu(tmp_path: Path) -> None:
    by_flag = record("sglang", machine=GPU, flags={"attention_backend": "fa3"}, case="single_turn/a")
    by_option = record("vllm", machine=GPU, options={"attention": "flashinfer"}, case="single_turn/b")
    found = shown(tmp_path, by_flag, by_option, record("vllm", machine=CPU, flags={"attention_backend": "fa3"}))
    assert says(findings.runs("sglang", probes.uses(["H100"], "fa3")), found) == Says.HOLDS
    assert says(findings.runs("sglang", probes.uses([], "fa3")), found) == Says.HOLDS
    assert says(findings.runs("sglang", probes.uses(["A100"], "fa3")), found) == Says.NONE
    assert says(findings.runs("vllm", probes.uses([], "fa3")), found) == Says.NONE  # no GPU there
    assert says(findings.runs("vllm", probes.uses(["H100"], "flashinfer")), found) == Says.HOLDS


def test_better_than_another_case(tmp_path: Path) -> None:
    slower = record("vllm", SLOWER, case=f"{CASE}-no-prefix-caching", options={"prefix_caching": False})
    found = shown(tmp_path, record("vllm"), slower)
    test = findings.better_than("vllm", "-no-prefix-caching")
    judged = judge(Claim("SGLang", "text", test, ("single_turn/*-16",), "output_throughput"), found)
    assert judged.says == Says.HOLDS
    assert "2.00" in judged.findings[0].told
    assert [name for name, _ in judged.findings[0].records] == ["tiny-16", "tiny-16-no-prefix-caching"]
    assert says(findings.better_than("vllm", "no-prefix-caching"), found) == Says.FAILS


def test_a_version_must_be_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "pins", lambda lane, engine: {"torch": "2.14.0"} if lane == "cuda" else {})
    found = shown(tmp_path, record("vllm", versions={"torch": "2.14.0"}))
    assert says(findings.version("vllm", "torch", "2.14.0"), found) == Says.HOLDS
    assert says(findings.version("vllm", "torch", "2.8.0"), found) == Says.FAILS
    monkeypatch.setattr(together, "pins", lambda lane, engine: {})
    assert says(findings.version("sglang", "torch", "2.9.1"), found) == Says.NONE


def test_one_finding_against_is_enough_and_an_open_one_keeps_it_open(tmp_path: Path) -> None:
    cases = {name: shown(tmp_path / name, *pair(values, case=f"x/{name}")) for name, values in
             (("faster", FASTER), ("slower", SLOWER), ("noisy", NOISY))}  # fmt: skip
    test = findings.faster("vllm")
    assert says(test, cases["faster"] + cases["noisy"]) == Says.OPEN
    assert says(test, cases["faster"] + cases["noisy"] + cases["slower"]) == Says.FAILS


def test_speeds_of_a_cpu_count_only_where_there_are_no_others(tmp_path: Path) -> None:
    cpu = shown(tmp_path / "cpu", *pair(SLOWER, machine=CPU))
    gpu = shown(tmp_path / "gpu", *pair(FASTER, machine=GPU))
    claim = Claim("Quick decision", "text", findings.faster("vllm"), ("*",), "output_throughput", speed=True)
    alone, together_ = judge(claim, cpu), judge(claim, cpu + gpu)
    assert (alone.says, alone.cpu_only) == (Says.FAILS, True)
    assert (together_.says, together_.cpu_only, len(together_.findings)) == (Says.HOLDS, False, 1)


def locks(folder: Path, vllm: str, sglang: str) -> None:
    for engine, torch in (("vllm", vllm), ("sglang", sglang)):
        (folder / f"{engine}-cuda.txt").write_text(f"{engine}==1.0 \\\n    --hash=sha256:00\ntorch=={torch} \\\n")


def test_the_resolvers_answers_count_for_the_locks_they_were_given_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "LOCKS", tmp_path)
    locks(tmp_path, "2.1", "2.2")
    assert [asked for _, asked in together.questions()] == [
        ("vllm==1.0", "torch==2.2"), ("sglang==1.0", "torch==2.1"), ("vllm==1.0", "sglang==1.0"),
    ]  # fmt: skip
    told = [{"lane": lane, "asked": asked, "fits": "sglang==1.0" in asked, "why": "because"}
            for lane, asked in together.questions()]  # fmt: skip
    path = tmp_path / "together.json"
    path.write_text(json.dumps({"resolver": "uv", "answers": told}))
    assert len(together.answers(path)) == 3
    monkeypatch.setattr(together, "ANSWERS", path)
    assert says(findings.apart("torch", "cuda"), []) == Says.FAILS  # one of the two fits
    assert says(findings.apart("engines", "cuda"), []) == Says.FAILS
    assert says(findings.apart("engines", "cpu"), []) == Says.NONE
    locks(tmp_path, "2.1", "2.3")
    assert [asked for _, asked in together.answers(path)] == [
        ("sglang==1.0", "torch==2.1"),
        ("vllm==1.0", "sglang==1.0"),
    ]


def test_the_tracked_answers_are_of_the_tracked_locks() -> None:
    assert list(together.answers()) == together.questions()


def test_torch_pins_conflict_by_the_resolver() -> None:
    claims = {claim.text: claim for claim in CLAIMS}
    assert judge(claims["their torch pins conflict"], []).says == Says.HOLDS
    assert "depends on torch==" in judge(claims["their torch pins conflict"], []).findings[0].told
    assert judge(claims["the two cannot be installed into one environment"], []).says == Says.HOLDS

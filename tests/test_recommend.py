"""The recommendation: by records where they speak, else by the old guide's rule, which is said to be an opinion."""

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import evidence, machine, recommend, standings, store
from harness.recommend import ELSEWHERE, OPINION, RECORDS, Answer
from harness.record import Certificate
from tests.factory import launch, record
from tests.test_cli import rollbench

H100, RTX = "NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090"
ASKED = {"workload": "single-turn", "memory": "enough", "familiar": "neither"}
FAST, SLOW = (150.0, 151.0, 149.0), (100.0, 101.0, 99.0)


def on(*gpus: str) -> machine.Machine:
    name = gpus[0].split()[-1].lower() if gpus else "no-gpu"
    return machine.fingerprint().model_copy(update={"gpus": gpus, "id": name})


def measured(root: Path, *gpus: str, case: str = "single_turn/0.5B-512", sglang: Any = SLOW, vllm: Any = FAST) -> None:
    common = {"case": case, "scenario": case.split("/", maxsplit=1)[0], "machine": on(*gpus)}
    for engine, values in (("sglang", sglang), ("vllm", vllm)):
        made = {"values": values} if isinstance(values, tuple) else {"launches": values}
        store.save(record(engine, **common, **made), root)


def answers(root: Path, gpu: str, **changed: str) -> Mapping[str, Answer]:
    """By the question's name."""
    found = recommend.answers(ASKED | changed, gpu, list(standings.standings(evidence.read(root))))
    return {answer.about.split()[0]: answer for answer in found}


def test_a_record_of_that_gpu_decides(tmp_path: Path) -> None:
    measured(tmp_path, H100)
    answer = answers(tmp_path, "h100")["workload"]
    assert (answer.engine, answer.basis) == ("vllm", RECORDS)
    (one,) = answer.evidence
    assert one.text.startswith(
        "output, vLLM / SGLang 1.50 [1.49, 1.51], 3 pairs of launches: vLLM better (single_turn/"
    )
    assert all((tmp_path / path).is_file() for path in one.records)
    assert answer.limits == ["measured with tiny-qwen3: another model or size may differ"]


def test_a_record_of_another_gpu_says_so(tmp_path: Path) -> None:
    measured(tmp_path, H100)
    answer = answers(tmp_path, "A100")["workload"]
    assert (answer.engine, answer.basis) == ("vllm", ELSEWHERE)
    assert "measured on hbm3, none on A100" in answer.limits
    measured(tmp_path, "NVIDIA A100-SXM4-80GB", sglang=FAST, vllm=SLOW)
    answer = answers(tmp_path, "A100")["workload"]
    assert (answer.engine, answer.basis) == ("sglang", RECORDS), "that of the GPU itself goes before"


def test_a_machine_without_a_gpu_speaks_to_who_has_none(tmp_path: Path) -> None:
    measured(tmp_path, case="multi_turn/tiny-shared", sglang=_talk(2.0), vllm=_talk(1.0))
    answer = answers(tmp_path, "H100", workload="agent")["workload"]
    assert (answer.engine, answer.basis, answer.evidence) == ("sglang", OPINION, [])
    assert answer.limits[0] == "records of no-gpu are left out: no GPU"
    assert "`rollbench run multi_turn/" in answer.limits[1]
    answer = answers(tmp_path, "none", workload="agent")["workload"]
    assert (answer.engine, answer.basis) == ("vllm", RECORDS)
    assert "a machine without a GPU shows that all works, not how fast an engine is on one" in answer.limits


def _talk(seconds: float) -> list[Any]:
    return [launch(i, 1, samples={"conversation_time": [seconds * (1 + i / 1000)]}) for i in (1, 2, 3)]


def test_what_does_not_decide_leaves_the_rule(tmp_path: Path) -> None:
    measured(tmp_path, H100, sglang=(100.0, 200.0, 50.0), vllm=(110.0, 90.0, 130.0))
    answer = answers(tmp_path, "H100")["workload"]
    assert (answer.words, answer.basis, len(answer.evidence)) == ("either", OPINION, 1)
    assert "inconclusive" in answer.evidence[0].text


def test_alike_and_against_each_other(tmp_path: Path) -> None:
    measured(tmp_path, H100, sglang=(100.0, 101.0, 99.0, 100.5), vllm=(100.1, 101.0, 99.1, 100.6))
    answer = answers(tmp_path, "H100")["workload"]
    assert (answer.words, answer.engine, answer.basis) == ("either", "", RECORDS)
    measured(tmp_path, H100, case="single_turn/7B-512", sglang=FAST, vllm=SLOW)
    answer = answers(tmp_path, "H100")["workload"]
    assert (answer.engine, answer.basis) == ("sglang", RECORDS)
    assert "1 of 2 say otherwise or do not decide" in answer.limits
    measured(tmp_path, H100, case="single_turn/1.5B-512")
    answer = answers(tmp_path, "H100")["workload"]
    assert (answer.words, answer.engine) == ("it depends on the case", "")


def test_a_broken_certificate_decides_nothing(tmp_path: Path) -> None:
    broken = {"cache": Certificate(ok=False, figure=9, reason="9 tokens")}
    measured(tmp_path, H100, vllm=[launch(i, 150.0, certificates=broken) for i in (1, 2, 3)])
    answer = answers(tmp_path, "H100")["workload"]
    assert (answer.basis, answer.evidence) == (OPINION, [])
    assert any(limit.startswith("says nothing: single_turn/0.5B-512 on hbm3: invalid: ") for limit in answer.limits)


def test_what_an_engine_refuses_is_told(tmp_path: Path) -> None:
    refused = [launch(i, 1, unsupported="cannot discard", samples={}) for i in (1, 2)]
    measured(tmp_path, H100, case="sleep_wake/0.5B-discard", sglang=refused)
    answer = answers(tmp_path, "H100", memory="tight")["memory"]
    assert answer.basis == OPINION
    assert "says nothing: sleep_wake/0.5B-discard on hbm3: SGLang: cannot discard" in answer.limits


def test_whether_the_engines_run_on_it(tmp_path: Path) -> None:
    measured(tmp_path, H100)
    assert answers(tmp_path, "H100")["gpu"].words == "either: both run"
    assert answers(tmp_path, "RTX 3090")["gpu"].engine == "sglang"
    assert answers(tmp_path, "RTX 3090")["gpu"].basis == OPINION
    assert (answers(tmp_path, "L4")["gpu"].words, answers(tmp_path, "L4")["gpu"].basis) == ("not decided", "")
    refused = [launch(i, 1, unsupported="no kernel for SM 8.9", samples={}) for i in (1, 2)]
    measured(tmp_path, RTX, sglang=refused)
    found = answers(tmp_path, "RTX 4090")["gpu"]
    assert (found.engine, found.basis) == ("vllm", RECORDS), "a record goes before the rule"
    assert any("no kernel for SM 8.9" in one.text for one in found.evidence)


@pytest.mark.parametrize(
    ("asked", "name", "same"),
    [("H100", H100, True), ("rtx 4090", RTX, True), ("L4", "NVIDIA L40S", False), ("A100", "NVIDIA A100-SXM4", True)],
)
def test_a_gpu_is_named_word_for_word(asked: str, name: str, same: bool) -> None:
    assert recommend.matches(asked, [name]) == same
    assert not recommend.matches("none", [name])
    assert recommend.matches("None", [])


@pytest.mark.parametrize(
    ("name", "consumer"),
    [("RTX 4090", True), ("4090", True), ("GeForce RTX 5080", True), ("RTX 3070", True), ("A100", False),
     ("H200", False), ("L40", False), ("RTX 6000 Ada", False)],
)  # fmt: skip
def test_consumer_cards(name: str, consumer: bool) -> None:
    assert bool(recommend.CONSUMER.search(name)) == consumer


def test_records_go_before_opinions_then_the_old_order() -> None:
    def said(about: str, engine: str, basis: str) -> Answer:
        return Answer(about, engine, "", basis, "")

    found = [
        said("workload", "sglang", OPINION),
        said("memory", "vllm", ELSEWHERE),
        said("familiar", "sglang", RECORDS),
    ]
    assert recommend.verdict(found) == ("SGLang", f"familiar ({RECORDS})")
    assert recommend.verdict(found[:2]) == ("vLLM", f"memory ({ELSEWHERE})")
    both = [said("workload", "sglang", OPINION), said("familiar", "vllm", OPINION)]
    assert recommend.verdict(both) == ("SGLang", f"workload ({OPINION}); against it: familiar")
    assert recommend.verdict([said("workload", "", RECORDS)])[0] == "either"


@pytest.mark.parametrize("question", recommend.QUESTIONS, ids=lambda question: question.name)
def test_every_rule_looks_at_cases_and_metrics_that_there_are(question: recommend.Question) -> None:
    from fnmatch import fnmatchcase

    from harness import scenario
    from harness.metrics import METRICS

    for rule in question.choices.values():
        for look in rule.looks:
            assert look.metric in METRICS
            for pattern in look.cases:
                assert any(fnmatchcase(name, pattern) for name in scenario.cases()), pattern


def test_the_command_says_all_of_it(results: Path) -> None:
    measured(results, H100)
    options = ("--workload", "single-turn", "--gpu", "H100", "--memory", "tight", "--familiar", "vllm")
    done = rollbench("recommend", *options)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "workload single-turn: vLLM (from records)"
    assert f"    {results.resolve()}/hbm3/single_turn/0.5B-512/vllm-" in done.stdout
    assert f"memory tight: SGLang ({OPINION})" in lines
    assert "  the old guide says: already familiar with vLLM: vLLM" in lines
    assert lines[-1] == "take vLLM: workload single-turn (from records)"


def test_without_records_all_is_opinion(results: Path) -> None:
    options = ("--workload", "agent", "--gpu", "RTX 3090", "--memory", "enough", "--familiar", "neither")
    done = rollbench("recommend", *options)
    assert done.returncode == 0
    assert "from records" not in done.stdout
    assert done.stdout.splitlines()[-1] == f"take SGLang: workload agent ({OPINION})"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "no terminal to ask on: give --workload, --gpu, --memory, --familiar"),
        (["--workload", "agent", "--gpu", "H100"], "give --memory, --familiar"),
        (["--workload", "agents"], "--workload agents: did you mean agent?"),
        (["--memory", "80"], "--memory 80: known are enough, tight"),
        (["--gpu", " "], "--gpu is empty"),
    ],
)
def test_mistakes_are_one_line(results: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], why: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    done = rollbench("recommend", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert why in done.stderr


def test_on_a_terminal_it_asks_for_what_is_missing(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO("no such work\nmath\n\nRTX 4090\n")  # asked again; the default of memory
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    done = rollbench("recommend", "--familiar", "vllm")
    assert done.returncode == 0
    assert "workload math: " in done.stdout
    assert "gpu RTX 4090: " in done.stdout
    assert "memory" not in done.stdout.split("Which GPU")[1], "enough is no question"

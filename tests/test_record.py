"""Records: what is in them, what makes two comparable, and their schema."""

import json
from dataclasses import fields, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from benchmarks import replay
from harness import compare, machine, store
from harness.crew import Lesson
from harness.errors import NotComparable
from harness.paths import PROJECT
from harness.record import OPTIONS_BEFORE, PARAMS_BEFORE, Certificate, Record
from harness.scenario import Options, cases
from tests.factory import launch, record

TRACKED = sorted((PROJECT / "results").glob("[!.]*/*/*/*.json"))
FIRST_OPTIONS: dict[str, object] = {  # of the first record of all, 0.5B-512 on SGLang
    "dtype": "bfloat16", "seed": 0, "max_model_len": 4096, "max_running": 512, "eager": False, "prefix_caching": True,
    "multiprocessing": True, "memory_fraction": 0.8, "threads": 1, "native": {},
}  # fmt: skip
FIRST_PARAMS = {
    "model": "Qwen2.5-0.5B", "gpus": 1, "warmup": 2, "steps": 5, "requests": 512, "input_tokens": 128,
    "output_tokens": 128, "temperature": 1.0, "seed": 0,
}  # fmt: skip


def test_schema_file_is_that_of_the_code() -> None:
    """Mend it with `python -m harness.record > docs/record.schema.json`; a change that old records do not fit raises
    the schema's number."""
    assert json.loads((PROJECT / "docs" / "record.schema.json").read_text()) == Record.model_json_schema()


def test_failed_launches_stay_in_the_record_and_out_of_the_figures() -> None:
    found = record(launches=[launch(1, 5), launch(2, 6, error="died", samples={})])
    assert found.samples("output_throughput") == [[4.95, 5, 5.05]]
    assert len(found.launches) == 2


@pytest.mark.parametrize(
    ("spoilt", "good", "text"),
    [(0, 3, "3"), (1, 2, "2 (1 set aside: steady)"), (2, 3, "3")],  # the last is invalid
)
def test_launches_that_the_machine_spoilt_are_set_aside_where_they_are_the_fewer(
    spoilt: int, good: int, text: str
) -> None:
    drift = {"steady": Certificate(ok=False, figure=0.2, reason="+20.0% from the first to the last step")}
    found = record(launches=[launch(n, n, certificates=drift if n <= spoilt else {}) for n in (1, 2, 3)])
    assert (len(found.measured), len(found.good), compare.launches_text(found)) == (3, good, text)
    assert len(found.broken) == (2 if spoilt == 2 else 0)
    assert len(found.samples("ttft")) == good


def test_broken_certificates_are_named() -> None:
    bad = {"cache": Certificate(ok=False, figure=3, reason="3 tokens")}
    assert record().broken == []
    assert record(launches=[launch(1, 5), launch(2, 6, certificates=bad)]).broken == ["launch 2, cache: 3 tokens"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"case": "single_turn/tiny-64"}, "case was 'single_turn/tiny-16', now 'single_turn/tiny-64'"),
        ({"params": {"model": "tiny-qwen3", "prompts": 32}}, r"params\.prompts was 16, now 32"),
        ({"options": {"dtype": "bfloat16", "native": {}}}, r"options\.dtype was 'float32', now 'bfloat16'"),
        ({"options": {"dtype": "float32", "native": {"vllm": 1}}}, r"options\.native\.vllm was None, now 1"),
        ({"machine": machine.fingerprint().model_copy(update={"cores": 999})}, r"machine\.cores was \d+, now 999"),
    ],
)
def test_what_differs_is_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(NotComparable, match=words):
        record().must_compare(record(**changes))


def test_state_and_kernel_of_a_machine_do_not_matter() -> None:
    other = machine.fingerprint().model_copy(update={"kernel": "x", "ram_gib": 1.0})
    record().must_compare(record(machine=other, engine="sglang", versions={}))


def test_every_option_has_a_value_for_records_that_are_older_than_it() -> None:
    """A new field of `Options` needs its row in `record.OPTIONS_BEFORE`."""
    assert FIRST_OPTIONS.keys() | OPTIONS_BEFORE.keys() == {f.name for f in fields(Options)}
    assert not FIRST_OPTIONS.keys() & OPTIONS_BEFORE.keys()


@pytest.mark.parametrize("path", TRACKED, ids=lambda p: str(p.relative_to(PROJECT / "results")))
def test_a_tracked_record_has_the_fields_of_today(path: Path) -> None:
    """A parameter that a tracked record lacks needs its row in `record.PARAMS_BEFORE`; what the file says stays."""
    found, text = store.load(path), json.loads(path.read_text())
    assert found.options.items() >= text["options"].items()
    assert all(value in found.params.values() for value in text["params"].values())
    kind = type(next(case for name, case in cases().items() if name.startswith(f"{found.scenario}/")))
    other: dict[str, Any] = {"trace": str(replay.AGENT)} if "trace" in found.params else {}
    other |= {"lesson": Lesson(**found.params["lesson"])} if "lesson" in found.params else {}
    built = kind(**found.params | other, options=Options(**found.options))
    more = PARAMS_BEFORE.get(found.scenario, {}).keys()  # which an engine's own way of sending weights has no use for
    assert built.params().keys() | more == found.params.keys() | more
    assert built.options.of(found.engine).keys() == found.options.keys()


def test_tracked_records_that_agree_in_what_both_hold_have_the_same_options() -> None:
    """Some were written before `sleep` came, some after it."""
    for old, new in permutations(TRACKED, 2):
        if old.parent == new.parent and old.name.split("-")[0] == new.name.split("-")[0]:
            before, after = (json.loads(path.read_text())["options"] for path in (old, new))
            if "chunked_prefill" in before and all(after.get(name) == value for name, value in before.items()):
                assert store.load(old).options == store.load(new).options


def test_a_record_from_before_an_option_compares_with_one_of_today() -> None:
    options = {name: value for name, value in Options().of("vllm").items() if name not in ("lora_rank", "sleep")}
    old, new = record(options=options), record(options=Options().of("vllm"))
    old.must_compare(new)
    with pytest.raises(NotComparable, match=r"options\.sleep was False, now True"):
        old.must_compare(record(options=Options(sleep=True).of("vllm")))


def test_the_first_records_say_what_they_ran_with() -> None:
    """They cut prompts where each engine saw fit (8192 tokens on SGLang, 16384 on vLLM), which no option of today
    says; graphs went up to max_running, 512."""
    first = record(options=FIRST_OPTIONS, params=FIRST_PARAMS)
    today = {"params": cases()["single_turn/0.5B-512"].params() | {"steps": 5}, "options": Options().of("vllm")}
    first.must_compare(record("sglang", options=FIRST_OPTIONS, params=FIRST_PARAMS))
    assert first.params == today["params"]
    with pytest.raises(NotComparable, match=r"options\.chunked_prefill was None, now 8192"):
        first.must_compare(record(**today))
    first.must_compare(record(**today | {"options": today["options"] | {"chunked_prefill": None}}))


def test_parameters_that_came_later_are_those_of_a_scenario() -> None:
    for scenario, before in PARAMS_BEFORE.items():
        for case in (case for name, case in cases().items() if name.startswith(f"{scenario}/")):
            params = replace(case, **before).params()  # less those that an engine's own way has no use for
            assert {name: value for name, value in before.items() if name in params}.items() <= params.items()
            assert before.keys() - params.keys() <= {"how", "senders", "bucket", "straight"}


def test_a_record_of_an_unknown_scenario_keeps_its_parameters() -> None:
    assert record(scenario="other", params={"requests": 3}).params == {"requests": 3}

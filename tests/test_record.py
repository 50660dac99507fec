"""Records: what is in them, what makes two comparable, and their schema."""

import json

import pytest

from harness import machine
from harness.errors import NotComparable
from harness.paths import PROJECT
from harness.record import Certificate, Record
from tests.factory import launch, record


def test_schema_file_is_that_of_the_code() -> None:
    """Mend it with `python -m harness.record > docs/record.schema.json`; a change that old records do not fit raises
    the schema's number."""
    assert json.loads((PROJECT / "docs" / "record.schema.json").read_text()) == Record.model_json_schema()


def test_failed_launches_stay_in_the_record_and_out_of_the_figures() -> None:
    found = record(launches=[launch(1, 5), launch(2, 6, error="died", samples={})])
    assert found.samples("output_throughput") == [[4.95, 5, 5.05]]
    assert len(found.launches) == 2


def test_broken_certificates_are_named() -> None:
    bad = {"cache": Certificate(ok=False, figure=3, reason="3 tokens")}
    assert record().broken == []
    assert record(launches=[launch(1, 5), launch(2, 6, certificates=bad)]).broken == ["launch 2, cache: 3 tokens"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"case": "single_turn/tiny-64"}, "case was 'single_turn/tiny-16', now 'single_turn/tiny-64'"),
        ({"params": {"model": "tiny-qwen3", "requests": 32}}, r"params\.requests was 16, now 32"),
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

"""Ratios between records, and the tables that show them."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness import compare, machine, store
from harness.errors import NotComparable
from harness.record import Certificate
from tests.factory import START, launch, record


def text(table: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_engines_of_one_run_are_paired_by_launch() -> None:
    before = record("sglang", launches=[launch(1, 100, 1), launch(4, 200, 2), launch(5, 400, 3)])
    after = record("vllm", launches=[launch(2, 110, 1), launch(3, 220, 2), launch(6, 440, 3)])
    found = {r.metric.name: r for r in compare.ratios(before, after)}
    assert found["output_throughput"].paired
    assert found["output_throughput"].estimate.point == pytest.approx(1.1)
    assert found["output_throughput"].estimate.low == pytest.approx(1.1)
    assert "peak_memory" not in found


def test_a_pair_that_lost_one_launch_is_left_out() -> None:
    before = record(
        "sglang", launches=[launch(1, 100, 1), launch(4, 200, 2), launch(5, 1, 3, error="died", samples={})]
    )
    after = record("vllm", launches=[launch(2, 110, 1), launch(3, 220, 2), launch(6, 999, 3)])
    assert compare.ratios(before, after)[0].estimate.launches == 2
    assert compare.ratios(before, after)[0].estimate.point == pytest.approx(1.1)


def test_other_runs_are_not_paired() -> None:
    assert not compare.ratios(record("sglang"), record("vllm", run="other"))[0].paired
    assert not compare.ratios(record("vllm"), record("vllm", run="other"))[0].paired


def test_records_of_other_parameters_are_refused() -> None:
    with pytest.raises(NotComparable):
        compare.ratios(record(), record(params={"model": "tiny-qwen3", "prompts": 1}))


def test_an_engine_that_a_case_is_not_of_was_not_run() -> None:
    own = record("vllm", case="weight_sync/tiny-own-vllm-reload")
    records = [record("sglang"), record("vllm"), own]
    shown = text(compare.side_by_side(records)[0][1])
    assert "output 100.0 tok/s [97.5, 102.5] not run" in " ".join(shown.split())
    assert "sglang" in shown
    assert "not run" not in text(compare.side_by_side(records[:2])[0][0])
    assert "not run" not in text(compare.side_by_side([own])[0][0])  # the other engine was not asked for


def test_invalid_cells_have_no_figure_and_say_why() -> None:
    bad = launch(1, 100, certificates={"cache": Certificate(ok=False, figure=5, reason="5 tokens")})
    (table,), why = compare.side_by_side([record("sglang", launches=[bad, launch(2, 101)]), record("vllm")])
    rows = {line.split()[0]: line for line in text(table).splitlines() if line.strip()}
    assert rows["output"].count("invalid") == 2  # its level, and the ratio
    assert "100.0 tok/s [97.5, 102.5]" in rows["output"]  # the valid one
    assert "NOT OK: cache" in rows["certificates"]
    assert "all hold" in rows["certificates"]
    assert why == ["invalid: single_turn/tiny-16 on sglang: launch 1, cache: 5 tokens"]
    ratios = text(compare.ratios_table(record("sglang", launches=[bad, launch(2, 101)]), record("vllm")))
    assert "invalid" in ratios
    assert "1.0" not in ratios


def test_a_certificate_that_does_not_apply_breaks_nothing() -> None:
    none = launch(1, 100, certificates={"gpu": Certificate(ok=None, figure=0, reason="no GPU")})
    assert record(launches=[none]).broken == []


def test_table_shows_levels_with_intervals_and_units() -> None:
    shown = text(compare.case_table([record(), record("sglang", (50.0,))]))
    assert "100.0 tok/s [97.5, 102.5]" in shown
    assert "50.0 tok/s" in shown
    assert "10.0 ms [9.8, 10.3]" in shown
    assert "peak memory" not in shown  # neither has it


def test_a_level_of_zero_is_shown_and_has_no_ratio() -> None:
    zero = [launch(i, 100, samples={"preemptions": [0.0]}) for i in (1, 2)]
    some = [launch(i, 100, samples={"preemptions": [3.0]}) for i in (1, 2)]
    (table,), _ = compare.side_by_side([record("sglang", launches=zero), record("vllm", launches=some)])
    row = next(line for line in text(table).splitlines() if "preemptions" in line)
    assert row.split()[1:] == ["0.00", "[0.00,", "0.00]", "3.00", "[3.00,", "3.00]"]


def test_newest_record_of_each_engine_on_this_machine(tmp_path: Path) -> None:
    elsewhere = machine.fingerprint().model_copy(update={"id": "elsewhere"})
    later = START.replace(year=2027)
    for r in (
        record(),
        record(started=later, run="new"),
        record("sglang"),
        record("sglang", machine=elsewhere, started=later),
    ):
        store.save(r, tmp_path)
    (tmp_path / "junk.json").write_text("{")
    found, skipped = compare.latest(tmp_path, machine.fingerprint().id)
    assert [(r.engine, r.run) for r in found] == [("sglang", "run"), ("vllm", "new")]
    assert len(skipped) == 1
    assert "junk.json" in skipped[0]
    assert compare.latest(tmp_path, machine.fingerprint().id, ["other/case"])[0] == []

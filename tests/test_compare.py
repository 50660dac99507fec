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
        compare.ratios(record(), record(params={"model": "tiny-qwen3", "requests": 1}))


def test_invalid_cells_have_no_figure_and_say_why() -> None:
    bad = launch(1, 100, certificates={"cache": Certificate(ok=False, figure=5, reason="5 tokens")})
    tables, why = compare.side_by_side([record("sglang", launches=[bad, launch(2, 101)]), record("vllm")])
    levels, ratio = map(text, tables)
    assert "invalid" in levels
    assert "100.0 [97.5, 102.5]" in compare.markdown(tables[0])  # the valid one
    assert "invalid" in ratio
    assert "1.0" not in ratio
    assert why == ["invalid: single_turn/tiny-16 on sglang: launch 1, cache: 5 tokens"]


def test_table_shows_the_level_with_its_interval() -> None:
    shown = text(compare.levels_table([record(), record("sglang", (50.0,))]))
    assert "100" in shown
    assert "[97.5, 102.5]" in shown
    assert "50.0" in shown
    assert "not measured" in shown  # peak memory


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

"""Export: one row a launch and metric, the same in every format; OpenMetrics as its own parser reads it."""

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pyarrow import parquet

from harness import export, store
from harness.metrics import METRICS
from harness.paths import PROJECT
from harness.record import Certificate
from tests.commands import apart
from tests.factory import launch, record
from tests.test_cli import rollbench

BROKEN = {
    "cache": Certificate(ok=False, figure=9, reason="9 tokens"),
    "load": Certificate(ok=True, figure=0, reason=""),
}
HOSTILE = 'a"b\\c\nd,e\u202e'


@pytest.fixture
def root(results: Path) -> Path:
    """Two engines: three good launches; one good, one that failed, one that is unsupported, one void."""
    store.save(record("vllm", (100.0, 101.0, 99.0)), results)
    samples = {"output_throughput": [float("nan"), 3.0], "memory_asleep": [2.0], "of_tomorrow": [1.0]}
    bad = [
        launch(1, 50.0, samples=samples),
        launch(2, 1, error="died\nof it", samples={}),
        launch(3, 1, unsupported="cannot", samples={}, certificates={}),
        launch(4, 7.0, certificates=BROKEN),
    ]
    store.save(record("sglang", launches=bad, params={"model": HOSTILE}), results)
    return results


def table(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def exported(root: Path, name: str, *arguments: str) -> Path:
    path = root.parent / name
    done = rollbench("export", str(path), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{name}: " in done.stdout
    return path


def test_a_row_for_each_launch_and_metric(root: Path) -> None:
    rows = table(exported(root, "all.csv"))
    assert list(rows[0]) == list(export.COLUMNS)
    good = [row for row in rows if row["engine"] == "vllm" and row["metric"] == "output_throughput"]
    assert [(row["launch"], row["value"], row["samples"]) for row in good] == [
        ("1", "100.0", "3"), ("2", "101.0", "3"), ("3", "99.0", "3"),
    ]  # fmt: skip
    one = good[0]
    assert (one["unit"], one["better"], one["certificates"], one["state"]) == (
        "tok/s",
        "higher",
        "all hold",
        "measured",
    )
    assert (one["versions"], one["commit"], one["model"]) == ("torch 2.13.0", "c0ffee", "tiny-qwen3")
    assert (root / one["record"]).is_file()


def test_launches_without_figures_are_not_lost(root: Path) -> None:
    rows = [row for row in table(exported(root, "all.csv")) if row["engine"] == "sglang"]
    told = {(row["launch"], row["state"], row["error"], row["value"]) for row in rows if not row["metric"]}
    assert told == {("2", "failed", "died\nof it", ""), ("3", "unsupported", "cannot", "")}
    assert {row["certificates"] for row in rows if row["launch"] == "4"} == {"NOT OK: cache"}
    (nan,) = (row for row in rows if row["launch"] == "1" and row["metric"] == "output_throughput")
    assert (nan["value"], nan["samples"]) == ("3.0", "1"), "what is no number is left out"
    assert rows[0]["model"] == HOSTILE


def test_parquet_holds_the_same_with_types(root: Path) -> None:
    found = parquet.read_table(exported(root, "all.parquet"))
    rows = found.to_pylist()
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows] == table(exported(root, "a.csv"))
    assert {type(row["value"]) for row in rows} == {float, type(None)}
    assert str(found.schema.field("launch").type) == "int64"


def test_openmetrics_as_its_parser_reads_it(root: Path) -> None:
    families = {f.name: f for f in text_string_to_metric_families(exported(root, "all.om").read_text())}
    rows = [row for row in table(exported(root, "all.csv")) if row["value"]]
    assert sum(len(family.samples) for family in families.values()) == len(rows)
    output = families["rollbench_output_throughput_tokens_per_second"]
    assert (output.type, output.unit) == ("gauge", "tokens_per_second")
    sample = next(s for s in output.samples if s.labels["engine"] == "vllm" and s.labels["launch"] == "2")
    assert sample.value == 101
    assert float(sample.timestamp) == launch(2, 1).started.timestamp()
    assert families["rollbench_memory_asleep_bytes"].samples[0].value == 2 * 2**30
    assert families["rollbench_memory_asleep_bytes"].samples[0].labels["model"] == HOSTILE
    assert families["rollbench_of_tomorrow"].samples[0].value == 1


def test_every_unit_of_ours_has_one_of_openmetrics() -> None:
    assert {metric.unit for metric in METRICS.values()} <= export.UNITS.keys()
    assert all(re.fullmatch("[a-z_]*", unit) for unit, _ in export.UNITS.values())


def test_only_what_was_asked_for(root: Path) -> None:
    assert {row["engine"] for row in table(exported(root, "a.csv", "-e", "vllm"))} == {"vllm"}
    assert table(exported(root, "a.csv", "-c", "single_turn/*"))
    assert "no records of what was asked for" in rollbench("export", "x.csv", "-c", "multi_turn/*").stderr
    assert "no records of what was asked for" in rollbench("export", "x.csv", "--machine", "other").stderr


def test_standard_output_is_csv(root: Path) -> None:
    done = apart("export", ROLLBENCH_RESULTS=str(root))
    assert done.stdout.splitlines()[0] == ",".join(export.COLUMNS)
    assert apart("export", "-f", "openmetrics", ROLLBENCH_RESULTS=str(root)).stdout.endswith("# EOF\n")


def test_foreign_results_are_no_rows(root: Path) -> None:
    before = exported(root, "a.csv").read_text()
    (root / store.FOREIGN).mkdir()
    (root / store.FOREIGN / "vllm-bench-serve-00000000.json").write_text("{}")
    assert exported(root, "b.csv").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-f", "parquet"], "parquet is not text: name a file"),
        (["x.xls"], "x.xls: its ending names no format"),
        (["-f", "cvs"], "no format cvs: did you mean csv?"),
        (["/proc/none/x.csv"], "/proc/none/x.csv: cannot be written"),
    ],
)
def test_mistakes_are_one_line(root: Path, arguments: list[str], why: str) -> None:
    done = rollbench("export", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert why in done.stderr


def test_no_records(results: Path) -> None:
    assert "no records" in rollbench("export", "x.csv").stderr


def test_without_pyarrow_one_line_says_what_to_do(root: Path) -> None:
    """In a process of its own, where it cannot be imported."""
    code = "import sys; sys.modules['pyarrow'] = None; from harness import cli; cli.main()"
    target = root.parent / "x.parquet"
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(target), "--results", str(root)],
        capture_output=True, text=True, check=False, cwd=PROJECT,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "rollbench: Parquet needs pyarrow: `pip install -e '.[parquet]'`, or export CSV\n"
    assert not target.exists()
    assert list(root.parent.glob(".*tmp")) == []

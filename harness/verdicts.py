"""What the gate found, for a terminal, a pull request, a CI server's JUnit reader, and as JSON."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from rich.table import Table

from harness import compare, gate, tables
from harness.compare import plain
from harness.gate import Looks, Row, Verdict
from harness.record import Commit

MARKS = {
    Verdict.REGRESS: "❌",
    Verdict.IMPROVE: "🚀",
    Verdict.PASS: "✅",
    Verdict.INCONCLUSIVE: "❔",
    Verdict.INVALID: "⚠️",
}

_DIRTY = " and changes that no commit holds"


@dataclass(frozen=True)
class Report:
    """The gate's answer. `controls`: rows of the base against itself; `again`: the command that measures a case on an
    engine anew; `notes`: what else is to be said."""

    base: str
    head: str
    rows: Sequence[Row]
    looks: Looks
    again: Callable[[str, str], str]
    controls: Sequence[Row] = ()
    notes: Sequence[str] = ()

    @property
    def verdict(self) -> Verdict:
        return gate.overall(self.rows)

    @property
    def headline(self) -> str:
        counts = Counter(row.verdict or "new" for row in self.rows if row.cell.blocks)
        told = ", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing was measured"
        return f"{self.verdict}: {self.head} against {self.base} ({told})"


def label(name: str, *commits: Commit) -> str:
    """`main (1a2b3c4d)`, and that its files differed where they did."""
    told = ", ".join(f"{'no commit known' if c.id == 'unknown' else c.id[:10] + _DIRTY * c.dirty}" for c in commits)
    return name if told in ("", name[:10]) else f"{name} ({told})"


def table(report: Report, everything: bool = False) -> Table:
    """Every cell that blocks, and those that inform where they changed; or all."""
    made = Table(title=plain(report.headline), title_justify="left")
    for header in ("case", "engine", "metric", "verdict", "head / base", "95 % interval", "would see", "p", "pairs"):
        made.add_column(header, overflow="fold")
    for row in report.rows:
        if everything or row.cell.blocks or row.flagged:
            made.add_row(plain(row.cell.case), plain(row.cell.engine), metric(row), verdict(row), *_figures(row))
    return made


def metric(row: Row) -> str:
    return "(all)" if row.cell.metric is None else row.cell.metric.title + ("" if row.cell.blocks else " (informs)")


def verdict(row: Row) -> str:
    return str(row.verdict or ("new" if row.reason.startswith("base") else "not judged"))


def _figures(row: Row) -> tuple[str, str, str, str, str]:
    change = row.change
    if change is None or row.cell.metric is None:
        return "", "", "", "", ""
    spans = change.low is not None and change.high is not None
    interval = f"[{_point(row, change.low or 0)}, {_point(row, change.high or 0)}]" if spans else ""
    seen = tables.of_amount(row.detectable, row.cell.metric.scale == "ratio", row.cell.metric.unit)
    pairs = f"{change.pairs:.3g}" + (" (apart)" if row.cell.apart else "")
    return _point(row, change.point), interval, seen, f"{row.adjusted:.2g}", pairs


def _point(row: Row, value: float) -> str:
    """A ratio, or a difference with its sign."""
    if row.cell.metric is not None and row.cell.metric.scale == "difference":
        return f"{value:+.3g} {row.cell.metric.unit}".strip()
    return f"{math.exp(value):.3f}"


def evidence(report: Report) -> Iterator[str]:
    """Of each row that is no plain pass: why, the value of every launch, and the command that measures it again."""
    for row in report.rows:
        told = (
            row.flagged
            or (row.cell.blocks and row.verdict not in (Verdict.PASS, None))
            or (row.cell.blocks and row.cell.new)
        )
        if told:
            yield f"{verdict(row)}: {row.cell.case} on {row.cell.engine}, {metric(row)}: {explanation(row)}"
            for name, values in (("base", row.cell.base), ("head", row.cell.head)):
                if values:
                    unit = row.cell.metric.unit if row.cell.metric else ""
                    yield f"    {name} by launch: {', '.join(f'{v:.4g}' for v in values)} {unit}".rstrip()
            if row.verdict:
                yield f"    again: {report.again(row.cell.case, row.cell.engine)}"
    yield from report.notes


def explanation(row: Row) -> str:
    """What was seen, in words."""
    if row.change is None or row.cell.metric is None:
        return row.reason
    amount = tables.of_amount(abs(row.worse), row.cell.metric.scale == "ratio", row.cell.metric.unit)
    seen = f"{amount} {'worse' if row.worse > 0 else 'better'}" if row.worse else "no change"
    ratio, interval, least, p, pairs = _figures(row)
    asked = tables.of_amount(row.cell.metric.detect, row.cell.metric.scale == "ratio", row.cell.metric.unit)
    told = f"{seen} (head / base {ratio} {interval}, adjusted p {p}, {pairs} pairs, look {row.look})"
    told += f"; would see {least} or more, {asked} is asked"
    return f"{told}; {row.reason}" if row.reason else told


def markdown(report: Report, everything: bool = False) -> str:
    """For a pull request: the table, then the evidence folded away."""
    made = table(report, everything)
    made.title = plain(f"{MARKS[report.verdict]} {_safe(report.headline)}")
    told = "\n".join(evidence(report))
    folded = (
        f"\n<details><summary>evidence</summary>\n\n```text\n{plain(told.replace('```', ''))}\n```\n</details>\n"
        if told
        else ""
    )
    return _safe(compare.markdown(made)) + "\n" + folded + f"\n<sub>{_safe(_method(report))}</sub>\n"


def _safe(text: str) -> str:
    return text.replace("<", "&lt;")


def _method(report: Report) -> str:
    plan, planned = report.looks.plan, report.looks.pairs
    looks = " then ".join(
        f"{pairs} pairs at alpha {alpha:g}" if planned else f"alpha {alpha:g}" for pairs, alpha in plan
    )
    corrected = "Holm over what blocks, Benjamini-Hochberg over what informs"
    return f"one number a launch, paired t tests of log-ratios; {looks}; {corrected}"


def as_json(report: Report) -> str:
    """Everything, a row each."""
    told = {
        "schema": 1,
        "verdict": report.verdict,
        "base": report.base,
        "head": report.head,
        "looks": [
            {"pairs": pairs if report.looks.pairs else None, "alpha": alpha} for pairs, alpha in report.looks.plan
        ],
        "rows": [_row(row, report) for row in report.rows],
        "controls": [_row(row, report) for row in report.controls],
        "notes": list(report.notes),
    }
    return json.dumps(told, indent=1) + "\n"


def _row(row: Row, report: Report) -> dict[str, Any]:
    cell, change = row.cell, row.change
    told: dict[str, Any] = {"case": cell.case, "engine": cell.engine, "metric": cell.metric and cell.metric.name}
    told |= {"verdict": row.verdict, "new": cell.new, "blocks": cell.blocks, "reason": row.reason}
    told |= {"base": cell.base, "head": cell.head, "apart": cell.apart, "again": report.again(cell.case, cell.engine)}
    if change is not None and cell.metric is not None:
        told |= {
            "scale": cell.metric.scale, "change": change.point, "low": change.low, "high": change.high, "p": change.p,
            "adjusted_p": row.adjusted, "worse": row.worse, "tolerance": cell.metric.tolerance, "pairs": change.pairs,
            "detectable": row.detectable if math.isfinite(row.detectable) else None, "detect": cell.metric.detect,
            "alpha": row.alpha, "look": row.look,
        }  # fmt: skip
    return told


def junit(report: Report, forgiving: bool = False) -> str:
    """A test case for each cell. Regressions are failures, what cannot be told is an error (skipped where `forgiving`);
    cells that inform never fail."""
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(root, "testsuite", name="rollbench gate", tests=str(len(report.rows)))
    counts = Counter[str]()
    for row in report.rows:
        name = row.cell.metric.name if row.cell.metric else "all"
        test = ElementTree.SubElement(
            suite, "testcase", classname=_xml(f"{row.cell.case}.{row.cell.engine}"), name=name
        )
        if kind := _kind(row, forgiving):
            counts[kind] += 1
            found = ElementTree.SubElement(test, kind, message=_xml(f"{verdict(row)}: {explanation(row)}"))
            found.text = _xml(
                f"base {row.cell.base}\nhead {row.cell.head}\nagain: {report.again(row.cell.case, row.cell.engine)}"
            )
        elif row.reason or row.change:
            ElementTree.SubElement(test, "system-out").text = _xml(f"{verdict(row)}: {explanation(row)}")
    for kind, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(attribute, str(counts[kind]))
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _kind(row: Row, forgiving: bool) -> str:
    if row.verdict is None:
        return "skipped"
    if not row.cell.blocks or row.verdict in (Verdict.PASS, Verdict.IMPROVE):
        return ""
    return "failure" if row.verdict == Verdict.REGRESS else "skipped" if forgiving else "error"


def _xml(text: str) -> str:
    """Without what XML cannot hold."""
    return str(plain(text))

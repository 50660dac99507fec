"""The page: a folder that a browser opens from disk. It holds all it needs, and asks nothing of any network.

harness/site/ has what is the same for all records; data.js holds what is shown, and each record lies in a file of its
own, read when it is opened.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import compare
from harness.draw import MADE
from harness.envs import PAIR
from harness.errors import UserError
from harness.evidence import Evidence
from harness.metrics import METRICS
from harness.paths import PACKAGE
from harness.plots import Plot, Section, sections
from harness.record import Record
from harness.standings import NAMES, Judge, Standing, by_gate, command
from harness.stats import Estimate

SITE = PACKAGE / "site"
CALL = "rollbench.{name}({arguments});\n"


def write(evidence: Evidence, folder: Path, judge: Judge = by_gate) -> int:
    """Write the page into a folder, in place of the page that is there; how many records it holds.

    Raises UserError when the folder holds something else.
    """
    index = folder / "index.html"
    is_page = index.is_file() and MADE in index.read_text("utf-8")
    if folder.exists() and any(folder.iterdir()) and not is_page:
        raise UserError(f"{folder} holds other files than a page of rollbench: name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".page-") as scratch:
        made = Path(scratch, "page")
        shutil.copytree(SITE, made)
        kept = _fill(evidence, made, judge)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return kept


def _fill(evidence: Evidence, folder: Path, judge: Judge) -> int:
    found = list(sections(evidence))
    (folder / "records").mkdir()
    paths = sorted({path for section in found for path in _paths(section)})
    kept = [path for path in paths if _keep(evidence, path, folder)]
    data = {
        "records": len(evidence.entries),
        "engines": {engine: NAMES.get(engine, engine) for engine in _engines(found)},
        "pair": list(PAIR),
        "metrics": {name: [m.title, m.unit, m.better or "", m.definition] for name, m in METRICS.items()},
        "machines": {section.machine: _machine(section) for section in found},
        "rows": [_row(standing, judge) for section in found for standing in section.shown],
        "figures": [_figure(section, name, plots) for section in found for name, plots in section.figures.items()],
        "skipped": sorted(evidence.skipped),
    }
    arguments = json.dumps(data, separators=(",", ":"))
    (folder / "data.js").write_text(CALL.format(name="data", arguments=arguments), "utf-8")
    return len(kept)


def _keep(evidence: Evidence, path: str, folder: Path) -> bool:
    """Put a record beside the page, its text as it is; False when it is gone."""
    try:
        text = (evidence.root / path).read_text("utf-8")
    except OSError:
        evidence.skipped.append(f"{path}: gone")
        return False
    arguments = f"{json.dumps(name(path))}, {json.dumps(path)}, {json.dumps(text)}"
    (folder / "records" / f"{name(path)}.js").write_text(CALL.format(name="record", arguments=arguments), "utf-8")
    return True


def name(path: str) -> str:
    """What the page calls a record."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _paths(section: Section) -> Iterator[str]:
    for standing in section.shown:
        yield from (entry.path for entry in standing.entries.values())
    for plots in section.figures.values():
        yield from (p.record for plot in plots for series in plot.series for p in series.points if p.record)


def _engines(found: Sequence[Section]) -> list[str]:
    there = {engine for section in found for standing in section.shown for engine in standing.records}
    return [*PAIR, *sorted(there - set(PAIR))]


def _machine(section: Section) -> dict[str, Any]:
    machine = next(iter(section.shown[-1].records.values())).machine
    return {"cpu": machine.cpu, "cores": machine.cores, "gpus": list(machine.gpus), "driver": machine.driver}


def _row(standing: Standing, judge: Judge) -> dict[str, Any]:
    verdicts = judge(standing)
    return {
        **standing.key._asdict(),
        "headlines": standing.headlines,
        "metrics": {metric: _cell(standing, metric, verdicts) for metric in standing.metrics},
        "records": {engine: _about(standing, engine) for engine in standing.records},
        "why": standing.why,
        "again": command(list(standing.records.values())),
    }


def _cell(standing: Standing, metric: str, verdicts: Mapping[str, str]) -> dict[str, Any]:
    """What a metric's figures are, in numbers to sort by and in words to show."""
    ratio = standing.ratios.get(metric)
    cell: dict[str, Any] = {"levels": {}, "verdict": verdicts.get(metric, "")}
    for engine, record in standing.records.items():
        level = standing.levels.get(metric, {}).get(engine)
        text = compare.no_level(record) if level is None else compare.level_text(level, METRICS[metric])
        cell["levels"][engine] = [*_numbers(level), text]
    if ratio:
        words = compare.ratio_text(ratio) + ("" if ratio.paired or ratio.broken else " unpaired")
        cell["ratio"] = [*_numbers(None if ratio.broken else ratio.estimate), words]
    return cell


def _numbers(found: Estimate | None) -> list[float | None]:
    return [None] * 3 if found is None else [found.point, found.low, found.high]


def _about(standing: Standing, engine: str) -> dict[str, Any]:
    record: Record = standing.records[engine]
    return {
        "id": name(standing.entries[engine].path),
        "measured": f"{record.started:%Y-%m-%d}",
        "launches": compare.launches_text(record),
        "certificates": compare.certificates_text(record),
        "versions": compare.versions_text(record),
        "commit": record.commit.id,
        "again": command([record]),
    }


def _figure(section: Section, title: str, plots: Iterable[Plot]) -> dict[str, Any]:
    """With the page's names of records in place of their paths."""
    found = [asdict(plot) for plot in plots]
    for point in (p for plot in found for series in plot["series"] for p in series["points"]):
        point["record"] = name(point["record"]) if point["record"] else ""
    models = sorted({standing.key.model for standing in section.shown})
    return {"machine": section.machine, "scenario": section.scenario, "name": title, "plots": found, "models": models}

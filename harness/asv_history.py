"""Tracked records as asv's own results, by commit, so that `asv publish` shows their history.

asv knows costs only: throughput becomes seconds per 1,000 tokens, other rates their inverse.
"""

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from asv.results import Results
from asv_runner.statistics import compute_stats

from harness import stats, store
from harness.commit import git
from harness.metrics import METRICS, Metric
from harness.record import Record

VERSION = "1"  # of a benchmark: another one starts its history anew


def write(records: Path, into: Path) -> int:
    """Put records of commits that this repository has into asv's results folder; how many there were."""
    kept = dict[tuple[str, str, str], dict[tuple[str, str], Record]]()
    dates = dict[str, int]()
    for record in sorted(_records(records), key=lambda r: r.started):  # the newest of a commit counts
        if (when := _date(record.commit.id, dates)) is not None:
            dates[record.commit.id] = when
            where = record.machine.id, record.commit.id, record.lane
            kept.setdefault(where, {})[record.case, record.engine] = record
    engines = sorted({engine for mine in kept.values() for _, engine in mine})
    benchmarks: dict[str, dict[str, Any]] = {}
    for (_, commit, lane), mine in kept.items():
        first = next(iter(mine.values()))
        about = _machine(first)
        store.write(into / about["machine"] / "machine.json", json.dumps(about | {"version": 1}) + "\n")
        told = Results(about | {"python": lane}, {}, commit, dates[commit], lane, f"rollbench-{lane}", {})
        for name, metric, values in _benchmarks(mine, engines):
            benchmarks[name] = _about(name, metric, engines)
            told.add_result(benchmarks[name], _result(values), record_samples=True)
        told.save(str(into))
    _add(into / "benchmarks.json", benchmarks)
    return sum(map(len, kept.values()))


def _records(root: Path) -> Iterator[Record]:
    for _, record in store.scan(root):
        if isinstance(record, Record) and record.good and not record.broken and not record.commit.dirty:
            yield record


def _date(commit: str, known: dict[str, int]) -> int | None:
    """When it was committed, in asv's milliseconds; None where this repository does not have it."""
    if commit in known:
        return known[commit]
    try:
        return 1000 * int(git("show", "-s", "--format=%ct", "--end-of-options", f"{commit}^{{commit}}"))
    except (OSError, subprocess.CalledProcessError):
        return None


def _benchmarks(mine: dict[tuple[str, str], Record], engines: list[str]) -> Iterator[tuple[str, Metric, list[Any]]]:
    """Name, metric, and the launches' costs of each engine (None where there are none)."""
    for case in sorted({case for case, _ in mine}):
        for metric in (metric for metric in METRICS.values() if metric.blocks):
            values = [_costs(mine.get((case, engine)), metric) for engine in engines]
            if any(values):
                yield f"{case.replace('/', '.')}.{metric.name}", metric, values


def _costs(record: Record | None, metric: Metric) -> list[float] | None:
    launches = record.samples(metric.name) if record else []
    if not launches or (metric.better == "higher" and not stats.positive(launches)):
        return None
    values = [stats.launch_value(launch) for launch in launches]
    return [_cost(value, metric) for value in values]


def _cost(value: float, metric: Metric) -> float:
    return value if metric.better == "lower" else (1000 if metric.unit.startswith("tok/s") else 1) / value


def _unit(metric: Metric) -> str:
    if metric.better == "lower":
        return metric.unit or "unit"
    return "s per 1k tokens" if metric.unit.startswith("tok/s") else f"1 / ({metric.unit or 'unit'})"


def _about(name: str, metric: Metric, engines: list[str]) -> dict[str, Any]:
    return {
        "name": name, "type": "track", "unit": _unit(metric), "version": VERSION, "code": metric.definition,
        "param_names": ["engine"], "params": [[repr(engine) for engine in engines]], "timeout": 3600,
    }  # fmt: skip


def _result(values: Iterable[list[float] | None]) -> SimpleNamespace:
    """As asv's runner gives one."""
    values = list(values)
    results = [compute_stats(v, 1)[0] if v else None for v in values]
    return SimpleNamespace(
        result=results, samples=values, number=[1] * len(values), profile=None, errcode=0, stderr=""
    )  # fmt: skip


def _machine(record: Record) -> dict[str, str]:
    machine = record.machine  # what may change from boot to boot is left out: asv would begin another line
    told = {"machine": machine.id, "cpu": machine.cpu, "num_cpu": str(machine.cores), "os": "Linux", "ram": ""}
    return told | {"arch": ", ".join(machine.gpus) or "no GPU"}


def _add(path: Path, benchmarks: dict[str, dict[str, Any]]) -> None:
    """To those that asv has found itself."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    store.write(path, json.dumps(found | benchmarks | {"version": 2}, indent=1) + "\n")

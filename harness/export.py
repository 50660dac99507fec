"""Records for other programs: one row a launch and metric, as CSV, Parquet or OpenMetrics text."""

import csv
import io
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import IO, Any

from harness import evidence
from harness.errors import UserError
from harness.metrics import METRICS
from harness.record import Launch, Record

Row = dict[str, Any]
COLUMNS: Mapping[str, type] = {
    "machine": str, "gpus": str, "cpu": str, "driver": str, "lane": str,
    "scenario": str, "case": str, "model": str, "engine": str, "versions": str, "lock_hash": str,
    "commit": str, "dirty": bool,  # dirty: the files differed from the commit's
    "run": str, "launch": int, "pair": int, "started": str,
    "state": str,  # measured, failed or unsupported; the latter have one row without a metric
    "metric": str, "unit": str, "better": str,
    "value": float,  # the median of the launch's samples
    "samples": int,
    "certificates": str,  # `all hold`, `NOT OK: …`, or `none`
    "error": str,  # what a launch died of, or the engine's words where it cannot do this
    "record": str,  # the file, below the results folder
}  # fmt: skip
LABELS = ("machine", "lane", "case", "model", "engine", "versions", "commit", "run", "launch", "pair", "certificates",
          "record")  # fmt: skip
UNITS = {  # ours: OpenMetrics' name, and how many of its base units
    "s": ("seconds", 1.0), "GiB": ("bytes", 2.0**30), "GiB/cycle": ("bytes_per_cycle", 2.0**30),
    "GB/s": ("bytes_per_second", 1e9), "tok/s": ("tokens_per_second", 1.0), "nat": ("nats", 1.0),
    "tok/s/GPU": ("tokens_per_second_per_gpu", 1.0), "J/token": ("joules_per_token", 1.0), "": ("", 1.0),
}  # fmt: skip
CHUNK = 50_000  # rows that Parquet gets at once


def rows(records: Iterable[tuple[str, Record]]) -> Iterator[Row]:
    """Of records with their paths: every launch and metric, in the record's order."""
    for path, record in records:
        about = _of_record(path, record)
        for launch in record.launches:
            yield from ({**about, **row} for row in _of_launch(launch))


def _of_record(path: str, record: Record) -> Row:
    machine = record.machine
    return {
        "machine": machine.id, "gpus": ", ".join(machine.gpus), "cpu": machine.cpu, "driver": machine.driver,
        "lane": record.lane, "scenario": record.scenario, "case": record.case,
        "model": str(record.params.get("model", "")), "engine": record.engine,
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items())),
        "lock_hash": record.lock_hash, "commit": record.commit.id, "dirty": record.commit.dirty, "run": record.run,
        "record": path,
    }  # fmt: skip


def _of_launch(launch: Launch) -> Iterator[Row]:
    bad = [name for name, held in launch.certificates.items() if held.ok is False]
    about = {
        "launch": launch.order, "pair": launch.pair, "started": launch.started.isoformat(),
        "state": "failed" if launch.error else "unsupported" if launch.unsupported else "measured",
        "certificates": f"NOT OK: {', '.join(bad)}" if bad else "all hold" if launch.certificates else "none",
        "error": launch.error or launch.unsupported or "",
    }  # fmt: skip
    if about["state"] != "measured":
        yield {**about, "metric": "", "unit": "", "better": "", "value": None, "samples": 0}
        return
    for name, held in launch.samples.items():
        metric = METRICS.get(name)
        kept = [value for samples in evidence.finite([held]) for value in samples]
        yield {
            **about, "metric": name, "unit": metric.unit if metric else "",
            "better": (metric.better if metric else None) or "",
            "value": statistics.median(kept) if kept else None, "samples": len(kept),
        }  # fmt: skip


def as_csv(found: Iterable[Row], file: IO[Any]) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    try:
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(found)
    finally:
        text.detach()  # or it would close the file


def as_parquet(found: Iterable[Row], file: IO[Any]) -> None:
    """Raises UserError where pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError("Parquet needs pyarrow: `pip install -e '.[parquet]'`, or export CSV") from None
    kinds = {str: pyarrow.string(), bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    every = iter(found)
    with parquet.ParquetWriter(file, schema) as writer:
        while chunk := list(islice(every, CHUNK)):
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema))


def as_openmetrics(found: Iterable[Row], file: IO[Any]) -> None:
    """A gauge for each metric, at the time when its launch began; units are base units (bytes, not GiB)."""
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.openmetrics.exposition import generate_latest

    families: dict[str, tuple[GaugeMetricFamily, float]] = {}
    for row in found:
        if row["value"] is None:
            continue
        name = row["metric"]
        if name not in families:
            unit, scale = UNITS.get(row["unit"], ("", 1.0))
            text = METRICS[name].definition if name in METRICS else ""
            safe = re.sub(r"\W", "_", f"rollbench_{name}", flags=re.ASCII)
            families[name] = GaugeMetricFamily(safe, text, labels=LABELS, unit=unit), scale
        family, scale = families[name]
        began = datetime.fromisoformat(row["started"]).timestamp()
        family.add_metric([str(row[label]) for label in LABELS], row["value"] * scale, began)
    file.write(generate_latest(_Families([family for family, _ in families.values()])))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Families:
    """What prometheus_client calls a registry."""

    families: Sequence[object]

    def collect(self) -> Sequence[object]:
        return self.families


@dataclass(frozen=True)
class Format:
    endings: tuple[str, ...]
    write: Callable[[Iterable[Row], IO[Any]], None]  # into a file of bytes
    text: bool = True


FORMATS = {
    "csv": Format((".csv",), as_csv),
    "parquet": Format((".parquet", ".pq"), as_parquet, text=False),
    "openmetrics": Format((".om", ".prom", ".txt"), as_openmetrics),
}

"""What lies in results/, as reports need it: a slim entry a record, so that a hundred thousand fit in memory."""

import functools
import hashlib
import json
import math
import multiprocessing
import os
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from harness import stats, store
from harness.errors import UserError
from harness.metrics import METRICS
from harness.record import Record

HEADLINES: Mapping[str, Sequence[str]] = {  # by scenario, the metrics of the first table; the first has a history
    "single_turn": ("output_throughput", "ttft", "tpot"),
    "multi_turn": ("output_throughput", "ttft", "conversation_time", "cache_share"),
    "long_context": ("output_throughput", "ttft", "bubble_share"),
    "replay": ("output_throughput", "ttft", "latency"),
    "weight_sync": ("sync_latency", "sync_worker", "sync_bandwidth", "sync_floor_ratio"),
    "inflight_sync": ("sync_gap", "sync_pause", "tokens_lost", "output_throughput"),
    "sleep_wake": ("sleep_time", "wake_time", "memory_asleep", "throughput_kept"),
    "adapter_sync": ("sync_latency", "sync_merge", "sync_bandwidth"),
    "rl_step": ("rl_throughput", "step_time", "reward_held_out", "mismatch_mean", "trainer_mfu"),
}
OTHERS = 4  # headlines of a scenario that has no row above
MANY, CHUNK = 4000, 500  # records that several processes read, and how many at once


class Key(NamedTuple):
    """A case on a machine. One name may have been measured with several models."""

    machine: str
    scenario: str
    case: str
    model: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A record without most of it. `values`: of the headline metrics one value a launch, none where a certificate does
    not hold. `identity`: equal where records can be compared. `spoilt`: what the machine did that makes all void."""

    path: str  # below the results folder
    key: Key
    engine: str
    started: datetime
    run: str
    commit: str
    identity: str
    values: dict[str, tuple[float, ...]]
    spoilt: str


class Evidence:
    """All records of a results folder, oldest first, and why files were passed over."""

    def __init__(self, root: Path, entries: Sequence[Entry], skipped: Sequence[str] = ()) -> None:
        self.root, self.entries, self.skipped = root, entries, list(skipped)
        self._of: dict[Key, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        for entry in sorted(entries, key=lambda entry: (entry.started, entry.path)):
            self._of[entry.key][entry.engine].append(entry)

    def cases(self) -> list[Key]:
        return sorted(self._of, key=lambda key: (key.machine, _place(key.scenario), natural(key.case), key.model))

    def newest(self, key: Key) -> dict[str, Entry]:
        """By engine. Before one that the machine spoilt comes an older one that can be compared, if that holds."""
        return {engine: _shown(found) for engine, found in self.history(key).items()}

    def set_aside(self, key: Key) -> dict[str, list[Entry]]:
        """By engine: those behind which an older one stands, oldest first."""
        return {engine: found[found.index(_shown(found)) + 1 :] for engine, found in self.history(key).items()}

    def history(self, key: Key) -> dict[str, list[Entry]]:
        """By engine, oldest first: those that the newest can be compared with."""
        return {
            engine: [entry for entry in found if entry.identity == found[-1].identity]
            for engine, found in sorted(self._of[key].items())
        }

    def load(self, entry: Entry) -> Record:
        """The whole record. Raises UserError when it is gone."""
        return store.load(self.root / entry.path)


def _shown(found: Sequence[Entry]) -> Entry:
    """The newest that the machine did not spoil, or of all where that has no figures."""
    whole = next((entry for entry in reversed(found) if not entry.spoilt), found[-1])
    return whole if whole.values else found[-1]


def read(root: Path) -> Evidence:
    """Every record below a folder, of whatever schema version. Many are read by several processes."""
    paths = store.files(root)
    if len(paths) < MANY:
        return Evidence(root, *_read(root, paths))
    parts = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    entries, skipped = list[Entry](), list[str]()
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), multiprocessing.get_context("forkserver")) as pool:
        for found, why in pool.map(_read, [root] * len(parts), parts):
            entries += found
            skipped += why
    return Evidence(root, entries, skipped)


def _read(root: Path, paths: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    entries, skipped = list[Entry](), list[str]()
    for path in paths:
        try:
            entries.append(_entry(str(path)[len(str(root)) + 1 :], store.load(path)))
        except UserError as error:
            skipped.append(below(root, error))
    return entries, skipped


def below(root: Path, error: UserError) -> str:
    """An error's text with paths below the results folder, the same on every machine."""
    return str(error).replace(f"{root}/", "")


def headlines(scenario: str, held: Sequence[str]) -> list[str]:
    """The metrics shown first, of those that are held."""
    chosen = HEADLINES.get(scenario, [name for name in METRICS if name in held][:OTHERS])
    return [name for name in chosen if name in held]


def held(record: Record) -> list[str]:
    """Known metrics of which it has samples, in their order."""
    found = {name for launch in record.good for name, samples in launch.samples.items() if samples}
    return [name for name in METRICS if name in found]


def finite(launches: Sequence[Sequence[float]]) -> list[list[float]]:
    """Without what is no number, and without launches that then have none."""
    kept = ([value for value in samples if math.isfinite(value)] for samples in launches)
    return [samples for samples in kept if samples]


def natural(text: str) -> list[tuple[int, float, str]]:
    """A key that sorts tiny-2 before tiny-16."""
    parts = re.findall(r"(\d{1,15}(?:\.\d{1,15})?)|(\D+)", text)
    return [(0, float(number), "") if number else (1, 0.0, word) for number, word in parts]


def _place(scenario: str) -> tuple[int, str]:
    known = list(HEADLINES)
    return (known.index(scenario) if scenario in known else len(known)), scenario


def _entry(path: str, record: Record) -> Entry:
    names = [] if record.broken else headlines(record.scenario, held(record))
    launches = {name: finite(record.samples(name)) for name in names}
    values = {name: tuple(map(stats.launch_value, found)) for name, found in launches.items() if found}
    once = sys.intern  # one object for each text that many entries have
    key = Key(*map(once, (record.machine.id, record.scenario, record.case, str(record.params.get("model", "")))))
    identity = _identity(record)
    return Entry(path, key, record.engine, record.started, record.run, once(record.commit.id), once(identity), values,
                 record.spoilt)  # fmt: skip


def _identity(record: Record) -> str:
    """A hash of what must agree for two records to be compared."""
    what = [record.params, record.options, record.machine.same_kind(), record.workload]
    return _hash(json.dumps(what, sort_keys=True, default=str))


@functools.lru_cache(10_000)
def _hash(text: str) -> str:
    """Many records have the same text."""
    return hashlib.sha256(json.dumps(_alike(json.loads(text)), sort_keys=True).encode()).hexdigest()[:16]


def _alike(value: Any) -> Any:
    """With 1.0 written as 1, which it equals."""
    if isinstance(value, dict):
        return {name: _alike(held) for name, held in value.items()}
    if isinstance(value, list):
        return [_alike(held) for held in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value

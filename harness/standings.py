"""How the engines stand on each case of each machine: newest records, levels, ratios, how to measure again."""

import functools
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness import compare, scenario, stats
from harness.compare import Ratio
from harness.errors import NotComparable, UserError
from harness.evidence import Entry, Evidence, Key, below, finite, headlines, held
from harness.markdown import flat
from harness.metrics import METRICS
from harness.record import Record

PAIR = ("sglang", "vllm")  # a ratio is the second's figure over the first's
NAMES = {"sglang": "SGLang", "vllm": "vLLM"}
Judge = Callable[[Ratio], str]  # of a ratio of PAIR, in a few words


@dataclass(frozen=True)
class Standing:
    """A case on a machine. By engine `entries` and `records`; by metric and engine `levels`, none where a certificate
    does not hold; by metric `ratios`, or `why` there are none."""

    key: Key
    entries: Mapping[str, Entry]
    records: Mapping[str, Record]
    levels: Mapping[str, Mapping[str, stats.Estimate]]
    ratios: Mapping[str, Ratio]
    why: str = ""

    @property
    def metrics(self) -> list[str]:
        """All that any engine has samples of."""
        found = {name for record in self.records.values() for name in held(record)}
        return [name for name in METRICS if name in found]

    @property
    def headlines(self) -> list[str]:
        return headlines(self.key.scenario, self.metrics)


def standings(evidence: Evidence) -> Iterator[Standing]:
    """Of every case on every machine, one after another. A record that is gone by now is noted as passed over."""
    for key in evidence.cases():
        entries, records = dict[str, Entry](), dict[str, Record]()
        for engine, entry in evidence.newest(key).items():
            try:
                records[engine] = evidence.load(entry)
                entries[engine] = entry
            except UserError as error:
                evidence.skipped.append(below(evidence.root, error))
        if records:
            yield stand(key, entries, records)


def stand(key: Key, entries: Mapping[str, Entry], records: Mapping[str, Record]) -> Standing:
    levels: dict[str, dict[str, stats.Estimate]] = {}
    for engine, record in records.items():
        for name in [] if record.broken else held(record):
            if samples := finite(record.samples(name)):
                levels.setdefault(name, {})[engine] = stats.level(samples)
    ratios, why = _ratios(records)
    return Standing(key, entries, records, levels, ratios, why)


def _ratios(records: Mapping[str, Record]) -> tuple[dict[str, Ratio], str]:
    if missing := [NAMES[engine] for engine in PAIR if engine not in records]:
        return {}, f"no record of {' and '.join(missing)}"
    try:
        found = compare.ratios(*(records[engine] for engine in PAIR))
    except NotComparable as error:
        return {}, str(error)
    return {ratio.metric.name: ratio for ratio in found if math.isfinite(ratio.estimate.point)}, ""


def by_interval(ratio: Ratio) -> str:
    """What a ratio's 95 % interval says by itself: who is better, `alike` within the metric's tolerance, or that it
    cannot tell. No correction for how many ratios are looked at."""
    low, high, metric = ratio.estimate.low, ratio.estimate.high, ratio.metric
    if ratio.broken or metric.better is None:
        return ""
    if low is None or high is None:
        return "too few launches"
    if low >= 1 - metric.tolerance and high <= 1 + metric.tolerance:
        return "alike"
    if low <= 1 <= high:
        return "cannot tell"
    return f"{NAMES[PAIR[(low > 1) == (metric.better == 'higher')]]} better"


def command(records: Sequence[Record]) -> str:
    """What measures the same again, on the same commit."""
    first = records[0]
    model, known = str(first.params.get("model", "")), _models().get(first.case)
    engines = [word for record in records for word in ("-e", record.engine)]
    chosen = [first.case]
    if known is None and "trace" in first.params:
        chosen = ["--trace", str(first.params["trace"]).split(" (sha256")[0]]
    elif known is not None and known != model:
        chosen += ["--model", model]
    launches = str(max(len(record.launches) for record in records))
    return shlex.join(["rollbench", "run", *map(flat, [*chosen, *engines]), "--launches", launches])


@functools.cache
def _models() -> dict[str, str]:
    return {name: case.model for name, case in scenario.cases().items()}

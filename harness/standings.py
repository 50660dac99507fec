"""How the engines stand on each case of each machine: newest records, levels, ratios, how to measure again."""

import functools
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from harness import compare, gate, scenario, stats
from harness.compare import Ratio
from harness.envs import PAIR
from harness.errors import NotComparable, UserError
from harness.evidence import Entry, Evidence, Key, below, finite, headlines, held
from harness.gate import Cell, Looks, Verdict
from harness.markdown import flat
from harness.metrics import METRICS
from harness.record import Record

NAMES = {"sglang": "SGLang", "vllm": "vLLM"}
Judge = Callable[["Standing"], Mapping[str, str]]  # by metric what may be said of PAIR, in a few words


@dataclass(frozen=True)
class Standing:
    """A case on a machine. By engine `entries` and `records`; by metric and engine `levels`, none where a certificate
    does not hold; by metric `ratios`, or `why` there are none. `set_aside`: newer records that the machine spoilt."""

    key: Key
    entries: Mapping[str, Entry]
    records: Mapping[str, Record]
    levels: Mapping[str, Mapping[str, stats.Estimate]]
    ratios: Mapping[str, Ratio]
    why: str = ""
    set_aside: Mapping[str, Sequence[Entry]] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """All that any engine has samples of."""
        found = {name for record in self.records.values() for name in held(record)}
        return [name for name in METRICS if name in found]

    @cached_property
    def verdicts(self) -> Mapping[str, str]:
        """By the gate's rule."""
        return by_gate(self)

    @property
    def gpu(self) -> bool:
        return any(record.machine.gpus for record in self.records.values())

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
            yield replace(stand(key, entries, records), set_aside=evidence.set_aside(key))


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


def by_gate(standing: Standing) -> dict[str, str]:
    """By metric which engine is better, by the gate's rule over the metrics of the case: `alike` where a difference
    that matters would have been seen, else `inconclusive`."""
    found = [ratio for ratio in standing.ratios.values() if ratio.metric.better and not ratio.broken]
    cells = [_cell(standing, ratio) for ratio in found]
    before, after = (NAMES[engine] for engine in PAIR)
    words = {Verdict.REGRESS: f"{before} better", Verdict.IMPROVE: f"{after} better", Verdict.PASS: "alike"}
    rows = zip(found, gate.judge(cells, Looks()), strict=True)
    return {ratio.metric.name: words.get(row.verdict, str(row.verdict)) for ratio, row in rows if row.verdict}


def _cell(standing: Standing, ratio: Ratio) -> Cell:
    before, after = (standing.records[engine] for engine in PAIR)
    x, y, paired = compare.matched(before, after, ratio.metric)
    head, base = (tuple(map(stats.launch_value, samples)) for samples in (x, y))
    return Cell(standing.key.case, "", ratio.metric, base, head, apart=not paired)


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

"""What is plotted, as figures without a picture: harness.draw makes SVG of it, the page draws it in the browser."""

import itertools
import json
import math
import operator
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from harness import metrics, stats
from harness.envs import PAIR
from harness.evidence import Entry, Evidence, Key, natural
from harness.metrics import METRICS
from harness.standings import NAMES, Standing, standings

MOST_LINES = 8  # in a plot of throughput
SIZE = r"(?:tiny|[\d.]+B)"  # of a model, before a case's name
HISTORY = 20  # the newest records of a case that its history shows
THROUGHPUT = ("single_turn", "multi_turn", "long_context")
LOADS = ("prompts", "conversations", "requests")  # parameters that say how many come at once
FREE = {*LOADS, "concurrency", "rate", "model", "steps", "warmup", "seed", "restart"}  # what may differ along a line


@dataclass(frozen=True)
class Point:
    """`low` and `high` None: too few launches for an interval. `record`: its path below the results folder."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    record: str = ""


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[Point]
    engine: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """`ticks` name the places 0, 1, … of the x axis where they are no numbers, `owners` their engines. `stack`: the
    series' values lie on each other at each place; `bars`: beside each other."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    kind: Literal["lines", "stack", "bars"] = "lines"
    ticks: Sequence[str] = ()
    owners: Sequence[str] = ()
    log: bool = False


class Phases(NamedTuple):
    """Metrics that are parts of a whole (`stack`), or levels of one thing (`bars`)."""

    name: str
    title: str
    kind: Literal["stack", "bars"]
    metrics: Sequence[str]


FAR = 20  # times as high as another: the lower is not seen beside it
PHASES: Mapping[str, Sequence[Phases]] = {  # by scenario
    "weight_sync": [Phases(
        "sync-phases", "Parts of a sync, a fence behind each", "stack",
        ("sync_gather", "sync_pack", "sync_transfer", "sync_start", "sync_load", "sync_finalise", "sync_fence",
         "sync_flush", "sync_control"),
    )],
    "sleep_wake": [Phases(
        "sleep-memory", "Device memory asleep, waking, awake", "bars",
        ("memory_asleep", "memory_waking", "memory_awake"),
    )],
    "rl_step": [
        Phases("step-phases", "Phases of a step", "stack", tuple(metrics.PHASES)),
        Phases("trainer-memory", "Trainer's memory by phase", "bars", [f"memory_{name}" for name in metrics.COMPUTED]),
    ],
}  # fmt: skip


class Section(NamedTuple):
    """A scenario on a machine: its standings, and its figures by name."""

    machine: str
    scenario: str
    shown: Sequence[Standing]
    figures: Mapping[str, Sequence[Plot]]


def sections(evidence: Evidence) -> Iterator[Section]:
    """Of all records, one after another."""
    of = operator.attrgetter("key.machine", "key.scenario")
    for (machine, scenario), group in itertools.groupby(standings(evidence), of):
        shown = list(group)
        past = history(evidence, [standing.key for standing in shown])
        yield Section(machine, scenario, shown, of_scenario(shown) | ({"history": past} if past else {}))


def of_scenario(shown: Sequence[Standing]) -> dict[str, list[Plot]]:
    """All figures of the standings of one machine and scenario: by name the plots beside each other."""
    found: dict[str, list[Plot]] = {}
    for model in dict.fromkeys(standing.key.model for standing in shown):
        mine = [standing for standing in shown if standing.key.model == model]
        found |= {f"throughput-{model}": _by_concurrency(model, mine), f"latency-{model}": _by_rate(model, mine)}
        for phases in PHASES.get(shown[0].key.scenario, ()):
            found.setdefault(phases.name, []).extend(_phases(phases, model, mine))
    found["sync-bytes"] = _by_bytes(shown)
    return {name: plots for name, plots in found.items() if plots}


def history(evidence: Evidence, keys: Iterable[Key]) -> list[Plot]:
    """Of each case with more than one comparable record its first headline over the commits measured; those first in
    which the newest record differs most from the one before."""
    made = ((key, _history(key, evidence.history(key))) for key in keys)
    plots = [plot for _, plot in made if plot]
    return sorted(plots, key=_moved, reverse=True)


def _moved(plot: Plot) -> float:
    pairs = (s.points[-2:] for s in plot.series if len(s.points) > 1)
    return max((abs(math.log(b.y / a.y)) for a, b in pairs if a.y > 0 and b.y > 0), default=0)


def _history(key: Key, found: Mapping[str, Sequence[Entry]]) -> Plot | None:
    metric = next((name for entries in found.values() for entry in reversed(entries) for name in entry.values), None)
    kept = {engine: [e for e in entries if metric in e.values] for engine, entries in found.items()}
    times = sorted({(e.started, e.run, e.commit) for entries in kept.values() for e in entries})
    runs = list(dict.fromkeys((run, commit) for _, run, commit in times))[-HISTORY:]
    places = {run: place for place, run in enumerate(runs)}
    if metric is None or max(map(len, kept.values())) < 2:
        return None
    series = [
        Series(NAMES.get(engine, engine), [
            _of_level(places[e.run, e.commit], stats.level([[value] for value in e.values[metric]]), e.path)
            for e in entries[-HISTORY:] if (e.run, e.commit) in places
        ], engine)
        for engine, entries in kept.items()
    ]  # fmt: skip
    title = f"{key.case.split('/', 1)[-1]} · {key.model}"
    return Plot(title, "commit", _label(metric), series, ticks=[commit[:7] for _, commit in runs])


def _by_concurrency(model: str, shown: Sequence[Standing]) -> list[Plot]:
    """Of many lines those that have one point alone are left out."""

    def load(params: Mapping[str, Any]) -> float:
        batch = next((params[name] for name in LOADS if params.get(name)), 0) * (params.get("samples") or 1)
        return float(0 if params.get("rate") else params.get("concurrency") or batch)

    chosen = [standing for standing in shown if standing.key.scenario in THROUGHPUT]
    series = _lines(chosen, lambda record: load(record.params), ("output_throughput",))
    kept = [line for line in series if len(line.points) > 1 or len(series) <= MOST_LINES] or series
    return _plot(f"Throughput by concurrency: {model}", "requests at once", "output_throughput", kept)


def _by_rate(model: str, shown: Sequence[Standing]) -> list[Plot]:
    """A plot for each latency, from the arrivals that are measured."""
    made = (
        _plot(f"{METRICS[metric].title} against rate: {model}", "prompts a second", metric,
              _lines(shown, lambda record: float(record.params.get("rate") or 0), (metric,)))
        for metric in ("ttft", "latency")
    )  # fmt: skip
    return [plot for plots in made for plot in plots]


def _by_bytes(shown: Sequence[Standing]) -> list[Plot]:
    """A plot for each engine, with the floor that its launches measured."""
    made = []
    for engine in sorted({engine for standing in shown for engine in standing.records}, key=_engine):
        mine = [standing for standing in shown if engine in standing.records]
        series = [line for line in _lines(mine, lambda record: link_fact(record, "bytes")) if line.engine == engine]
        floors = defaultdict[float, list[float]](list)
        for record in (standing.records[engine] for standing in mine):
            if (size := link_fact(record, "bytes")) and (floor := link_fact(record, "floor_s")):
                floors[size].append(floor)
        points = [Point(size, _six(statistics.median(floors[size]))) for size in sorted(floors)]
        prefix = re.compile(rf"^{re.escape(NAMES.get(engine, engine))} ({SIZE}-)?")  # the place says how large it is
        names = [replace(line, name=prefix.sub("", line.name)) for line in series]
        floor_line = Series("floor: one plain copy", points, dashed=True)
        title = f"Seconds of a sync against bytes: {NAMES.get(engine, engine)}"
        made += _plot(title, "bytes of all weights", "sync_latency", [*names, floor_line] if names else [])
    return made


def _plot(title: str, x: str, metric: str, series: Sequence[Series]) -> list[Plot]:
    """Logarithmic where there is more than one place, or one height is many times another."""
    points = [point for line in series for point in line.points]
    heights = [point.y for point in points if point.y > 0]
    log = len({point.x for point in points}) > 1 or max(heights, default=1) > FAR * min(heights, default=1)
    return [Plot(title, x, _label(metric), series, log=log)] if series else []


def link_fact(record: Any, name: str) -> float:
    """The median over launches of what a sync's link says of itself; 0 where it says nothing."""
    found = [launch.facts.get("link", {}).get(name) for launch in record.good]
    numbers = [float(value) for value in found if isinstance(value, int | float)]
    return statistics.median(numbers) if numbers else 0.0


def _lines(
    shown: Sequence[Standing], of: Callable[[Any], float], measured: Sequence[str] = ("sync_latency",)
) -> list[Series]:
    """A line for each engine and set of other parameters, over `of` of their records where that is not 0."""
    groups = defaultdict[tuple[str, str], list[tuple[str, Point]]](list)
    for standing, metric in itertools.product(shown, measured):
        for engine, level in standing.levels.get(metric, {}).items():
            if place := of(standing.records[engine]):
                point = _of_level(place, level, standing.entries[engine].path)
                groups[engine, _rest(standing.records[engine])].append((standing.key.case.split("/", 1)[-1], point))
    words = {group: _common([case for case, _ in found]) for group, found in groups.items()}
    everywhere = set.intersection(*map(set, words.values())) if words else set()
    series = []
    for group, found in groups.items():
        apart = "-".join(word for word in words[group] if word not in everywhere)
        points = sorted((point for _, point in found), key=lambda point: point.x)
        series.append(Series(f"{NAMES.get(group[0], group[0])} {apart}".strip(), points, group[0]))
    return sorted(series, key=lambda line: (_engine(line.engine), natural(line.name)))


def _rest(record: Any) -> str:
    """What must be equal along a line: parameters and options, without those that may differ."""
    rest = {name: value for name, value in (record.options | record.params).items() if name not in FREE}
    return json.dumps(rest, sort_keys=True, default=str)


def _common(cases: Sequence[str]) -> list[str]:
    """The words that the names of cases share: `7B-ipc` and `0.5B-ipc` are both `ipc`."""
    shared = set.intersection(*(set(case.split("-")) for case in cases))
    return [word for word in cases[0].split("-") if word in shared]


def _phases(phases: Phases, model: str, shown: Sequence[Standing]) -> list[Plot]:
    """A place for each case and engine, a series for each part that any of them has. Stacks of which one is many times
    as high as another are in plots of their own."""
    places = [
        (standing, engine) for standing in shown for engine in sorted(standing.records, key=_engine)
        if any(engine in standing.levels.get(part, {}) for part in phases.metrics)
    ]  # fmt: skip
    parts = [part for part in phases.metrics if any(engine in s.levels.get(part, {}) for s, engine in places)]
    heights = [sum(s.levels[part][engine].point for part in parts if engine in s.levels.get(part, {}))
               for s, engine in places]  # fmt: skip
    groups = _near(heights) if phases.kind == "stack" else [range(len(places))] if places else []
    return [_bars_of(phases, model, parts, [places[i] for i in group]) for group in groups]


def _bars_of(phases: Phases, model: str, parts: Sequence[str], places: Sequence[tuple[Standing, str]]) -> Plot:
    series = [
        Series(
            METRICS[part].title.split(": ")[-1],
            [
                _of_level(place, level, standing.entries[engine].path)
                for place, (standing, engine) in enumerate(places)
                if (level := standing.levels.get(part, {}).get(engine))
            ],
        )
        for part in parts
    ]
    ticks = [f"{s.key.case.split('/', 1)[-1]} · {NAMES.get(engine, engine)}" for s, engine in places]
    owners = [engine for _, engine in places]
    return Plot(f"{phases.title}: {model}", "", METRICS[parts[0]].unit, series, phases.kind, ticks, owners)


def _near(heights: Sequence[float]) -> list[list[int]]:
    """Places in groups whose heights can be seen on one scale."""
    groups = list[list[int]]()
    for place in sorted(range(len(heights)), key=heights.__getitem__):
        if not groups or heights[place] > FAR * heights[groups[-1][0]]:
            groups.append([])
        groups[-1].append(place)
    return [sorted(group) for group in groups]


def _engine(name: str) -> tuple[bool, str]:
    return name not in PAIR, name


def _label(metric: str) -> str:
    found = METRICS[metric]
    return f"{found.title}, {found.unit}" if found.unit else found.title


def _of_level(x: float, level: stats.Estimate, path: str) -> Point:
    """Six digits, so that no machine's last bit shows in a file."""
    low, high = (None if bound is None else _six(bound) for bound in (level.low, level.high))
    return Point(x, _six(level.point), low, high, path)


def _six(value: float) -> float:
    return float(f"{value:.6g}")

"""What the gate would do on a machine: false alarms and power by the number of pairs, simulated from the spread that
launches there have. `rollbench calibrate` shows it; docs/gate.md has the figures."""

import gc
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from harness import cells, stats
from harness.gate import Looks
from harness.metrics import METRICS, Metric, in_case
from harness.record import Record

CHUNK = 250  # trials in memory at once
MEDIAN = math.pi / 2  # how much more a median varies than a mean


@dataclass(frozen=True)
class Noise:
    """Spreads of log values, 0.02 being 2 %: between launches, inside one, and the drift over a whole session."""

    launch: float = 0.02
    inner: float = 0.01
    drift: float = 0.01
    samples: int = 8  # a launch

    def sessions(
        self, trials: int, metrics: int, pairs: int, effect: float = 0.0, seed: int = 0
    ) -> Iterator[np.ndarray]:
        """Samples of costs, trials x metrics x 2 sides x pairs x samples, in chunks of trials. Launches run in ABBA
        order; the head's are slower by `effect` in the first metric alone."""
        random = np.random.default_rng(seed)
        turn = np.arange(pairs) % 2
        position = np.stack([2 * np.arange(pairs) + turn, 2 * np.arange(pairs) + 1 - turn])
        drift = np.linspace(0, self.drift, 2 * pairs)[position]
        for start in range(0, trials, CHUNK):
            shape = (min(CHUNK, trials - start), metrics, 2, pairs)
            launches = random.normal(0, self.launch, shape) + drift
            launches[:, 0, 1] += math.log1p(effect)
            yield np.exp(launches[..., None] + random.normal(0, self.inner, (*shape, self.samples)))


@dataclass(frozen=True)
class Verdicts:
    """What the gate says of simulated cells, trials x metrics."""

    regress: np.ndarray
    improve: np.ndarray
    sure: np.ndarray  # a change as large as the metric declares would have been seen


def gate(samples: np.ndarray, metric: Metric, looks: Looks) -> Verdicts:
    """The gate's verdicts at its first look, on all trials at once; the cells of a trial share one correction."""
    (_, alpha), family = looks.plan[0], samples.shape[1]
    values = np.log(np.median(samples, axis=-1))
    changes = values[:, :, 1] - values[:, :, 0]
    pairs = changes.shape[-1]
    from scipy import stats as scipy_stats

    p = np.asarray(scipy_stats.ttest_1samp(changes, 0, axis=-1).pvalue)
    certain = np.array([stats.adjusted(row, "holm") for row in p]) < alpha if family > 1 else p < alpha
    point = changes.mean(axis=-1)
    seen = np.expm1(changes.std(axis=-1, ddof=1) * stats.detectable(1.0, pairs, alpha / family)) <= metric.detect
    worse, better = (certain & (np.expm1(way * point) >= metric.tolerance) for way in (1, -1))
    return Verdicts(worse, better, seen & ~worse & ~better)


@dataclass(frozen=True)
class Rates:
    """Shares of trials, of one number of pairs. `alarm`: any false regress among all metrics; `flag`: any false verdict
    of a change, either way; `power`: a planted change found, alone and among all metrics; `sure`: the share of cells
    without a change that get a pass, alone and among all."""

    pairs: int
    alarm: float
    flag: float
    power: Mapping[float, tuple[float, float]]
    sure: tuple[float, float]


def rates(
    noise: Noise, metric: Metric, pairs: int, effects: Sequence[float], metrics: int, trials: int, seed: int = 0
) -> Rates:
    """Simulate sessions without and with a change of the first metric."""
    looks = Looks()
    with _quick():
        alarm, flag, sure, alone = 0, 0, 0.0, 0.0
        for samples in noise.sessions(trials, metrics, pairs, seed=seed):
            found = gate(samples, metric, looks)
            alarm += int(found.regress.any(axis=1).sum())
            flag += int((found.regress | found.improve).any(axis=1).sum())
            sure += float(found.sure.mean(axis=1).sum())
            alone += float(gate(samples[:, :1], metric, looks).sure.sum())
        power = {effect: _power(noise, metric, pairs, effect, metrics, trials, seed + 1) for effect in effects}
    return Rates(pairs, alarm / trials, flag / trials, power, (alone / trials, sure / trials))


def _power(
    noise: Noise, metric: Metric, pairs: int, effect: float, metrics: int, trials: int, seed: int
) -> tuple[float, float]:
    found = np.zeros(2)
    for samples in noise.sessions(trials, metrics, pairs, effect, seed):
        found += [gate(samples[:, :n], metric, Looks()).regress[:, 0].sum() for n in (1, metrics)]
    return float(found[0] / trials), float(found[1] / trials)


@contextmanager
def _quick() -> Iterator[None]:
    """statsmodels collects garbage at each of its corrections: nothing that is there already is looked through."""
    stats.adjusted([1.0, 1.0], "holm")  # imports it
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass
class Spread:
    """How a metric varied between launches of one session and inside a launch, over all sessions seen: log values, or
    differences where the metric's scale is that."""

    metric: Metric
    launch: list[tuple[float, int]] = field(default_factory=list)  # variance, degrees of freedom
    inner: list[tuple[float, int]] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)

    def add(self, launches: Sequence[Sequence[float]]) -> None:
        """The launches of one record."""
        scaled = [[math.log(v) for v in launch] for launch in launches] if self.ratio else launches
        values = [stats.launch_value(launch) for launch in scaled]
        if len(values) > 1:
            self.launch.append((statistics.variance(values), len(values) - 1))
        self.inner += [(statistics.variance(launch), len(launch) - 1) for launch in scaled if len(launch) > 1]
        self.samples += map(len, launches)

    @property
    def ratio(self) -> bool:
        return self.metric.scale == "ratio"

    @property
    def between(self) -> float:
        """Of launch values."""
        return _pooled(self.launch)

    @property
    def within(self) -> float:
        return _pooled(self.inner)

    @property
    def freedom(self) -> int:
        """Launches that the spread rests on, less one a session."""
        return sum(degrees for _, degrees in self.launch)

    def noise(self, drift: float) -> Noise:
        """To simulate from: what a launch's own samples explain is taken out of the spread between launches."""
        samples = round(statistics.median(self.samples))
        own = MEDIAN * self.within**2 / samples if samples > 2 else self.within**2 / samples
        return Noise(math.sqrt(max(0.0, self.between**2 - own)), self.within, drift, samples)

    def detectable(self, pairs: int, alpha: float) -> float:
        """The smallest change that so many pairs find: both launches of a pair vary."""
        found = stats.detectable(math.sqrt(2) * self.between, pairs, alpha)
        return math.expm1(found) if self.ratio else found


def _pooled(parts: Sequence[tuple[float, int]]) -> float:
    degrees = sum(n for _, n in parts)
    return math.sqrt(sum(variance * n for variance, n in parts) / degrees) if degrees else 0.0


def spreads(records: Iterable[Record], shared: bool = False) -> dict[tuple[str, str, str], Spread]:
    """By case, engine and metric that blocks, of all records with two launches or more that count in a gate; `shared`
    counts those that others on the machine spoilt too."""
    found = dict[tuple[str, str, str], Spread]()
    for record in records:
        if cells.untrue(record):
            continue
        kept = {*cells.counted(record, shared)}
        for metric in (in_case(metric, record.params) for metric in METRICS.values()):
            launches = record.samples(metric.name, kept)
            fit = metric.scale == "difference" or all(v > 0 for launch in launches for v in launch)
            if metric.blocks and fit and len(launches) > 1:
                found.setdefault((record.case, record.engine, metric.name), Spread(metric)).add(launches)
    return found

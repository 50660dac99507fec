"""Statistics over launches: samples inside one launch are not independent, so each launch counts as one number.

scipy.stats takes seconds to import, so that only what computes an interval imports it.
"""

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A point with its interval; `low` and `high` are None when there are too few launches to have one."""

    point: float
    low: float | None
    high: float | None
    launches: int


def launch_value(samples: Sequence[float]) -> float:
    """One number for a launch: the median of its samples."""
    return statistics.median(samples)


@functools.cache
def samples_needed(share: float, confidence: float = 0.99) -> int:
    """Samples from which a percentile may be told: with `confidence` at least two lie beyond it, so that no single
    outlier is told (distribution-free tolerance limit of second order, Wilks 1941). 64 for p90, 662 for p99."""
    count = 2
    while share**count + count * (1 - share) * share ** (count - 1) > 1 - confidence:
        count += 1
    return count


def settled(values: Sequence[float], window: int = 3, spread: float = 0.10) -> bool:
    """Whether the last `window` values lie within `spread` of each other: the warm-up may end."""
    last = values[-window:]
    return len(last) == window and max(last) <= (1 + spread) * min(last)


def drift(values: Sequence[float]) -> tuple[float, float]:
    """The change from the first to the last value along a straight line, as a share of their median, and the p value of
    its slope (1 with fewer than three values)."""
    if len(values) < 3 or np.ptp(values) == 0 or not statistics.median(values):
        return 0.0, 1.0
    from scipy import stats

    line = stats.linregress(np.arange(len(values)), values)
    return float(line.slope) * (len(values) - 1) / statistics.median(values), float(line.pvalue)


def level(launches: Sequence[Sequence[float]]) -> Estimate:
    """The geometric mean over launches with its t interval; the arithmetic one where a launch's value is not positive.
    `launches` holds the samples of each."""
    if positive(launches):
        return _one_sample(_logs(launches))
    values = [launch_value(samples) for samples in launches]
    mean = statistics.mean(values)
    if len(values) < 2:
        return Estimate(mean, None, None, len(values))
    half = _half(values)
    return Estimate(mean, mean - half, mean + half, len(values))


def positive(launches: Sequence[Sequence[float]]) -> bool:
    """Whether every launch's value is above 0, so that ratios mean something."""
    return all(launch_value(samples) > 0 for samples in launches)


def ratio(after: Sequence[Sequence[float]], before: Sequence[Sequence[float]], paired: bool) -> Estimate:
    """after / before, by log-ratios of launch values with a t interval.

    Paired when launch i of both ran next to each other (their number is equal), else Welch's interval over two
    independent groups.
    """
    x, y = _logs(after), _logs(before)
    if paired:
        return _one_sample(x - y)
    point, launches = float(x.mean() - y.mean()), min(len(x), len(y))
    if launches < 2:
        return Estimate(math.exp(point), None, None, launches)
    half = 0.0  # of the interval; both groups may be constant
    if np.ptp(x) or np.ptp(y):
        from scipy import stats

        interval = stats.ttest_ind(x, y, equal_var=False).confidence_interval(CONFIDENCE)
        half = float(interval.high - interval.low) / 2
    return _estimate(point, half, launches)


def _logs(launches: Sequence[Sequence[float]]) -> np.ndarray:
    return np.log([launch_value(samples) for samples in launches])


def _one_sample(logs: np.ndarray) -> Estimate:
    point, launches = float(logs.mean()), len(logs)
    if launches < 2:
        return Estimate(math.exp(point), None, None, launches)
    return _estimate(point, _half(logs), launches)


def _half(values: Sequence[float] | np.ndarray) -> float:
    """Half of the t interval of a mean."""
    return _quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


@functools.cache
def _quantile(freedom: int) -> float:
    """Of Student's t, for an interval."""
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def _estimate(log: float, half: float, launches: int) -> Estimate:
    return Estimate(math.exp(log), math.exp(log - half), math.exp(log + half), launches)

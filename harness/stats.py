"""Statistics over launches: samples inside one launch are not independent, so each launch counts as one number.

scipy.stats takes seconds to import, so that only what computes an interval imports it.
"""

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


def level(launches: Sequence[Sequence[float]]) -> Estimate:
    """The geometric mean over launches with its t interval. `launches` holds the positive samples of each."""
    return _one_sample(_logs(launches))


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
    from scipy import stats

    return _estimate(point, float(stats.t.ppf((1 + CONFIDENCE) / 2, launches - 1) * stats.sem(logs)), launches)


def _estimate(log: float, half: float, launches: int) -> Estimate:
    return Estimate(math.exp(log), math.exp(log - half), math.exp(log + half), launches)

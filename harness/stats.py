"""Statistics over launches: samples inside one launch are not independent, so each launch counts as one number."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A point with its interval; `low` and `high` are None when there are too few launches to have one."""

    point: float
    low: float | None
    high: float | None
    launches: int

    @property
    def half_width(self) -> float | None:
        """Half the interval as a share of the point."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2 / self.point


def launch_value(samples: Sequence[float]) -> float:
    """One number for a launch: the median of its samples."""
    return statistics.median(samples)


def level(launches: Sequence[Sequence[float]]) -> Estimate:
    """The geometric mean over launches with its t interval. `launches` holds the positive samples of each."""
    logs = np.log([launch_value(samples) for samples in launches])
    return _exponentials(logs, logs.mean())


def ratio(after: Sequence[Sequence[float]], before: Sequence[Sequence[float]], paired: bool) -> Estimate:
    """after / before, by log-ratios of launch values with a t interval.

    Paired when launch i of both ran next to each other (their number is equal), else Welch's interval over two
    independent groups.
    """
    x, y = (np.log([launch_value(s) for s in launches]) for launches in (after, before))
    if paired:
        return _exponentials(x - y, (x - y).mean())
    point = math.exp(x.mean() - y.mean())
    if min(len(x), len(y)) < 2:
        return Estimate(point, None, None, min(len(x), len(y)))
    interval = stats.ttest_ind(x, y, equal_var=False).confidence_interval(CONFIDENCE)
    return Estimate(point, math.exp(interval.low), math.exp(interval.high), min(len(x), len(y)))


def _exponentials(logs: np.ndarray, mean: float) -> Estimate:
    if len(logs) < 2:
        return Estimate(math.exp(mean), None, None, len(logs))
    interval = stats.ttest_1samp(logs, 0.0).confidence_interval(CONFIDENCE)
    return Estimate(math.exp(mean), math.exp(interval.low), math.exp(interval.high), len(logs))

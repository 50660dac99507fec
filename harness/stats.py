"""Statistics over launches: samples inside one launch are not independent, so each launch counts as one number.

scipy.stats takes seconds to import, so that only what computes an interval imports it.
"""

import functools
import gc
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

CONFIDENCE = 0.95
EXACT = 1e-9  # of a value: less is arithmetic, no spread
POWER = 0.8  # with which a detectable effect is found
Correction = Literal["holm", "fdr_bh"]


@dataclass(frozen=True)
class Estimate:
    """A point with its interval; `low` and `high` are None when there are too few launches to have one."""

    point: float
    low: float | None
    high: float | None
    launches: int


@dataclass(frozen=True)
class Change:
    """The mean of differences, its 95 % t interval, their spread, and the two-sided p value of a mean of 0. One
    difference gives the point alone."""

    point: float
    low: float | None
    high: float | None
    spread: float
    p: float
    pairs: float  # what a test of pairs has as much to go by as


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
    from scipy.special import stdtr  # a launch imports no scipy.stats for this

    places, freedom = np.arange(len(values)), len(values) - 2
    slope, r = float(np.polyfit(places, values, 1)[0]), min(1.0, abs(float(np.corrcoef(places, values)[0, 1])))
    t = r * math.sqrt(freedom / (1 - r * r)) if r < 1 else math.inf
    return slope * (len(values) - 1) / statistics.median(values), 2 * float(stdtr(freedom, -t))


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


def paired(differences: Sequence[float]) -> Change:
    """Whether pairs differ: a paired t test. Differences that are all one value leave no doubt."""
    values = np.asarray(differences, dtype=float)
    point, pairs = float(values.mean()), len(values)
    if pairs < 2:
        return Change(point, None, None, math.inf, 1.0, pairs)
    if np.ptp(values) <= EXACT * np.abs(values).max():
        return Change(point, point, point, 0.0, float(point == 0), pairs)
    from scipy import stats

    found = stats.ttest_1samp(values, 0)
    interval = found.confidence_interval(CONFIDENCE)
    return Change(
        point, float(interval.low), float(interval.high), float(values.std(ddof=1)), float(found.pvalue), pairs
    )


def apart(after: Sequence[float], before: Sequence[float]) -> Change:
    """The same of two groups that were not measured together (Welch's test); its spread is that of as many pairs."""
    x, y = np.asarray(after, dtype=float), np.asarray(before, dtype=float)
    point, least = float(x.mean() - y.mean()), min(len(x), len(y))
    if least < 2:
        return Change(point, None, None, math.inf, 1.0, least)
    error = math.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))
    if not error:
        return Change(point, point, point, 0.0, float(point == 0), least)
    from scipy import stats

    found = stats.ttest_ind(x, y, equal_var=False)
    interval = found.confidence_interval(CONFIDENCE)
    pairs = float(found.df) + 1
    return Change(
        point, float(interval.low), float(interval.high), error * math.sqrt(pairs), float(found.pvalue), pairs
    )


def adjusted(p_values: Sequence[float] | np.ndarray, how: Correction) -> np.ndarray:
    """p values corrected for their number: Holm's bound the chance of one false alarm among all, Benjamini-Hochberg's
    the share of false ones among the alarms."""
    if not len(p_values):
        return np.array([])
    from statsmodels.stats.multitest import multipletests

    gc.freeze()  # for Holm it collects garbage, which takes 0.2 s where many objects live
    try:
        return np.asarray(multipletests(p_values, method=how)[1])
    finally:
        gc.unfreeze()


def detectable(spread: float, pairs: float, alpha: float) -> float:
    """The smallest true mean difference that a two-sided t test at `alpha` finds with POWER."""
    return 0.0 if not spread else math.inf if pairs < 2 else spread * _effect(pairs, alpha)


@functools.cache
def _effect(pairs: float, alpha: float) -> float:
    """In units of the spread. From scipy's non-central t: statsmodels 0.15's `TTestPower.solve_power` takes the lower
    tail too, which is nan there, and returns wrong effects for a small alpha (5 pairs, 0.0025: power 0.57, not 0.8)."""
    from scipy import optimize, stats

    limit, root = float(stats.t.isf(alpha / 2, pairs - 1)), math.sqrt(pairs)

    def short(effect: float) -> float:
        return float(stats.nct.sf(limit, pairs - 1, effect * root)) - POWER

    high = 1.0
    while short(high) < 0:
        high *= 2
    return float(optimize.brentq(short, 0, high, xtol=1e-9))

"""Other tools' verdicts on the same simulated sessions: asv's test, pytest-benchmark's threshold, a pooled test."""

from collections.abc import Callable, Mapping

import numpy as np

from harness.calibrate import Noise
from harness.errors import UserError

Verdict = Callable[[np.ndarray], np.ndarray]  # samples, … x 2 sides x pairs x samples: whether head is called worse


def asv(factor: float) -> Verdict:
    """`asv compare --factor`: the medians differ by the factor and its Mann-Whitney test says so, with one value a
    launch. Raises UserError where asv is not installed."""
    try:
        from asv import _stats
        from asv_runner import statistics
    except ImportError:
        raise UserError("asv is not installed: `pip install -e '.[dev]'` brings it") from None

    def differs(pair: np.ndarray) -> bool:
        told = [statistics.compute_stats(list(side), 1)[1] for side in pair]
        return bool(_stats.is_different(list(pair[0]), list(pair[1]), *told))

    def verdict(samples: np.ndarray) -> np.ndarray:
        launches = np.median(samples, axis=-1)
        base, head = np.moveaxis(np.median(launches, axis=-1), -1, 0)
        worse = np.asarray(base < head / factor)
        worse[worse] = [differs(pair) for pair in launches[worse]]
        return worse

    return verdict


def threshold(share: float) -> Verdict:
    """pytest-benchmark's `--benchmark-compare-fail=min:…%`, over all samples of a side."""

    def verdict(samples: np.ndarray) -> np.ndarray:
        base, head = np.moveaxis(samples.min(axis=(-2, -1)), -1, 0)
        return np.asarray(head > base * (1 + share))

    return verdict


def pooled(samples: np.ndarray) -> np.ndarray:
    """A Mann-Whitney test over all samples of a side as if they were independent, two-sided at 5 %."""
    from scipy import stats

    base, head = np.moveaxis(samples.reshape(*samples.shape[:-2], -1), -2, 0)
    p = stats.mannwhitneyu(base, head, axis=-1, method="asymptotic").pvalue
    return np.asarray((p < 0.05) & (np.median(head, axis=-1) > np.median(base, axis=-1)))


RIVALS: Mapping[str, Callable[[], Verdict]] = {
    "asv, factor 1.1 (its default)": lambda: asv(1.1),
    "asv, factor 1.03": lambda: asv(1.03),
    "pytest-benchmark, min:5%": lambda: threshold(0.05),
    "pooled Mann-Whitney": lambda: pooled,
}


def rates(
    name: str, noise: Noise, pairs: int, effect: float, metrics: int, trials: int, seed: int = 0
) -> tuple[float, float]:
    """Share of trials with a false regress among all metrics, and of those in which a planted change was found. The
    sessions are those that the gate was given (`calibrate.rates` of the same seed)."""
    verdict, alarms, found = RIVALS[name](), 0, 0
    for samples in noise.sessions(trials, metrics, pairs, seed=seed):
        alarms += int(verdict(samples).any(axis=1).sum())
    for samples in noise.sessions(trials, metrics, pairs, effect, seed + 1):
        found += int(verdict(samples[:, :1]).sum())
    return alarms / trials, found / trials

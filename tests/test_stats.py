"""Intervals over launches, held against worked cases and against simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness import stats


def test_level_is_the_geometric_mean_with_a_t_interval_of_logs() -> None:
    found = stats.level([[90, 100, 110], [200], [400]])
    assert found.point == pytest.approx(200)
    half = scipy_stats.t.ppf(0.975, 2) * math.log(2) / math.sqrt(3)
    assert found.low == pytest.approx(200 * math.exp(-half))
    assert found.high == pytest.approx(200 * math.exp(half))


def test_one_launch_has_no_interval() -> None:
    assert stats.level([[5, 6, 7]]) == stats.Estimate(6, None, None, 1)
    assert stats.ratio([[2]], [[1]], paired=True).low is None
    assert stats.ratio([[2]], [[1], [1]], paired=False).low is None


def test_pairing_takes_out_what_the_launches_share() -> None:
    before = [[1.0], [2.0], [4.0]]
    after = [[1.1], [2.2], [4.4]]
    paired, unpaired = (stats.ratio(after, before, paired=p) for p in (True, False))
    assert paired.point == pytest.approx(1.1)
    assert paired.low == pytest.approx(1.1)
    assert unpaired.point == pytest.approx(1.1)
    assert unpaired.low is not None
    assert unpaired.low < 0.3


def test_constant_groups_have_an_exact_ratio() -> None:
    assert stats.ratio([[3], [3]], [[2], [2]], paired=False) == stats.Estimate(
        pytest.approx(1.5), *[pytest.approx(1.5)] * 2, 2
    )


def test_welch_interval_is_scipys() -> None:
    random = np.random.default_rng(0)
    a, b = random.lognormal(0, 0.1, (5, 1)).tolist(), random.lognormal(0, 0.2, (4, 1)).tolist()
    expected = scipy_stats.ttest_ind(np.log(a).ravel(), np.log(b).ravel(), equal_var=False).confidence_interval(0.95)
    found = stats.ratio(a, b, paired=False)
    assert found.low == pytest.approx(math.exp(expected.low))
    assert found.high == pytest.approx(math.exp(expected.high))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Launch spread 2 %, inner spread 1 %, 8 samples a launch, drift 1 % over the run, ABBA: between 93 and 97 %."""
    random, covered, trials = np.random.default_rng(1), 0, 1000
    for _ in range(trials):
        order = [0, 1, 1, 0] * 3
        drift = np.linspace(0, 0.01, len(order))
        launches = (
            random.normal(0, 0.02, len(order))[:, None] + random.normal(0, 0.01, (len(order), 8)) + drift[:, None]
        )
        a, b = (
            [np.exp(row).tolist() for row, which in zip(launches, order, strict=True) if which == w] for w in (0, 1)
        )
        found = stats.ratio(a, b, paired=True)
        covered += found.low is not None and found.high is not None and found.low <= 1 <= found.high
    assert 0.93 < covered / trials < 0.97

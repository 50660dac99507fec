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


@pytest.mark.parametrize(("share", "needed"), [(0.5, 11), (0.90, 64), (0.99, 662)])
def test_a_percentile_needs_two_samples_beyond_it(share: float, needed: int) -> None:
    """With 99 % confidence, by the binomial distribution of the samples beyond the true percentile."""
    assert stats.samples_needed(share) == needed
    fewer, enough = (scipy_stats.binom.sf(1, count, 1 - share) for count in (needed - 1, needed))
    assert fewer < 0.99 <= enough


def test_less_confidence_needs_fewer_samples() -> None:
    assert stats.samples_needed(0.95, 0.95) == 93  # Wilks' own figure for two beyond, 95 % of 95 %


@pytest.mark.parametrize(
    ("values", "settled"),
    [
        ([9.0, 1.00, 1.05, 1.10], True),
        ([9.0, 1.00, 1.05, 1.11], False),
        ([1.10, 1.00, 1.05], True),  # the order is nothing
        ([1.0, 1.0], False),  # too few
        ([1.0, 1.0, 1.0, 2.0], False),  # what counts is the last ones
        ([], False),
    ],
)
def test_values_are_settled_when_the_last_lie_together(values: list[float], settled: bool) -> None:
    assert stats.settled(values) == settled


def test_window_and_spread_of_the_settled_are_given() -> None:
    assert stats.settled([1.0, 1.3], window=2, spread=0.3)
    assert not stats.settled([1.0, 1.31], window=2, spread=0.3)


def test_drift_is_the_change_along_the_line() -> None:
    change, p = stats.drift([1.0, 1.1, 1.2, 1.3, 1.4])
    assert change == pytest.approx(0.4 / 1.2)
    assert p < 1e-6
    assert stats.drift([1.4, 1.3, 1.2, 1.1, 1.0])[0] == pytest.approx(-0.4 / 1.2)


def test_drift_is_what_a_regression_says() -> None:
    random = np.random.default_rng(3)
    for size in range(3, 30):
        values = (1 + random.normal(0, 0.05, size) + 0.01 * np.arange(size)).tolist()
        line, (change, p) = scipy_stats.linregress(np.arange(size), values), stats.drift(values)
        assert change == pytest.approx(line.slope * (size - 1) / np.median(values))
        assert p == pytest.approx(line.pvalue)


def test_drift_needs_three_values_that_differ() -> None:
    assert stats.drift([1.0, 9.0]) == stats.drift([]) == stats.drift([2.0] * 5) == (0.0, 1.0)


def test_noise_alone_drifts_as_often_as_its_p_value_says() -> None:
    random = np.random.default_rng(2)
    found = sum(stats.drift((1 + random.normal(0, 0.05, 8)).tolist())[1] < 0.05 for _ in range(400))
    assert 0.02 < found / 400 < 0.09


def test_level_of_values_that_are_not_positive_is_their_mean_with_a_t_interval() -> None:
    found = stats.level([[0.0], [1.0, 2.0, 3.0], [4.0]])
    half = scipy_stats.t.ppf(0.975, 2) * 2 / math.sqrt(3)
    assert (found.point, found.launches) == (2.0, 3)
    assert found.low == pytest.approx(2 - half)
    assert found.high == pytest.approx(2 + half)
    assert stats.level([[0.0], [-3.0]]).point == -1.5


def test_level_of_nothing_but_zeros_is_zero() -> None:
    assert stats.level([[0.0, 0.0], [0.0]]) == stats.Estimate(0.0, 0.0, 0.0, 2)
    assert stats.level([[0.0]]) == stats.Estimate(0.0, None, None, 1)


def test_a_launch_is_positive_by_its_median() -> None:
    assert stats.positive([[0.0, 1.0, 2.0], [3.0]])
    assert not stats.positive([[0.0, 0.0, 2.0], [3.0]])
    found = stats.level([[0.0, 4.0, 9.0], [1.0]])  # the geometric mean of 4 and 1
    assert found.point == pytest.approx(2)


def test_paired_differences_are_scipys_t_test() -> None:
    found = stats.paired([0.05, 0.03, 0.07, 0.04])
    expected = scipy_stats.ttest_1samp([0.05, 0.03, 0.07, 0.04], 0)
    assert (found.point, found.pairs) == (pytest.approx(0.0475), 4)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.low == pytest.approx(expected.confidence_interval(0.95).low)
    assert found.spread == pytest.approx(np.std([0.05, 0.03, 0.07, 0.04], ddof=1))


def test_one_pair_says_nothing_and_equal_differences_leave_no_doubt() -> None:
    assert stats.paired([0.5]).p == 1
    assert stats.paired([0.5]).low is None
    assert (stats.paired([0.0, 0.0]).p, stats.paired([0.1, 0.1]).p) == (1, 0)
    assert stats.apart([0.5], [0.1, 0.2]).p == 1
    assert stats.apart([1.0, 1.0], [2.0, 2.0]).p == 0


def test_groups_apart_are_scipys_welch_test() -> None:
    a, b = [1.0, 1.2, 0.9, 1.1], [0.8, 0.7, 0.9]
    found, expected = stats.apart(a, b), scipy_stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.high == pytest.approx(expected.confidence_interval(0.95).high)
    t = found.point / (found.spread / math.sqrt(found.pairs))  # its spread is that of as many pairs
    assert t == pytest.approx(expected.statistic)


def test_corrections_are_holms_and_benjamini_hochbergs() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert stats.adjusted(p, "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.adjusted(p, "fdr_bh") == pytest.approx(scipy_stats.false_discovery_control(p))
    assert len(stats.adjusted([], "holm")) == 0


@pytest.mark.parametrize(("pairs", "alpha"), [(3, 0.05), (5, 0.05), (5, 0.05 / 20), (8, 0.05 / 60), (12, 0.01)])
def test_a_detectable_effect_is_found_four_times_in_five(pairs: int, alpha: float) -> None:
    effect = stats.detectable(1.0, pairs, alpha)
    found = np.random.default_rng(0).normal(effect, 1, (40_000, pairs))
    p = scipy_stats.ttest_1samp(found, 0, axis=1).pvalue
    assert np.mean(p < alpha) == pytest.approx(stats.POWER, abs=0.01)


def test_a_detectable_effect_shrinks_with_pairs_and_alpha_and_scales_with_the_spread() -> None:
    effects = [stats.detectable(0.02, n, 0.05) for n in (2, 3, 5, 8, 12)]
    assert effects == sorted(effects, reverse=True)
    assert [round(e, 4) for e in effects[1:4]] == [0.0653, 0.0336, 0.0231]
    assert stats.detectable(0.02, 5, 0.0025) > effects[2]
    assert stats.detectable(0.04, 5, 0.05) == pytest.approx(2 * effects[2])
    assert stats.detectable(0.0, 5, 0.05) == 0
    assert stats.detectable(0.02, 1, 0.05) == math.inf

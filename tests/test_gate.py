"""Verdicts on cells: each of the five, at the edges of the rule, and what many cells and two looks do to it."""

import gc
import math
from dataclasses import replace

import numpy as np
import pytest

from harness import gate, stats
from harness.gate import Cell, Looks, Verdict
from harness.metrics import METRICS, Metric

TIME, SPEED, LEAK = METRICS["sync_latency"], METRICS["output_throughput"], METRICS["memory_slope"]
QUIET = (1.000, 1.002, 0.999, 1.001, 0.998)


def cell(metric: Metric = TIME, factor: float = 1.0, noise: tuple[float, ...] = QUIET, **changes: object) -> Cell:
    head = tuple(factor * value for value in noise)
    return replace(Cell("case", "vllm", metric, (1.0,) * len(noise), head), **changes)  # type: ignore[arg-type]


def verdict(*cells: Cell, looks: Looks | None = None) -> list[Verdict | None]:
    return [row.verdict for row in gate.judge(cells, looks or Looks())]


@pytest.mark.parametrize(
    ("metric", "factor", "expected"),
    [
        (TIME, 1.20, "regress"),
        (TIME, 0.80, "improve"),
        (TIME, 1.06, "regress"),
        (TIME, 1.04, "pass"),  # certain, and less than the tolerance of 5 %
        (TIME, 1.00, "pass"),
        (SPEED, 0.90, "regress"),
        (SPEED, 1.10, "improve"),
        (SPEED, 0.98, "pass"),
    ],
)
def test_quiet_cells(metric: Metric, factor: float, expected: str) -> None:
    assert verdict(cell(metric, factor)) == [expected]


def test_throughput_is_judged_by_its_cost() -> None:
    (row,) = gate.judge([cell(SPEED, 0.5)], Looks())
    assert row.worse == pytest.approx(1.0, rel=0.01)  # twice the seconds a token


def test_noise_is_inconclusive_and_says_how_many_pairs_would_do() -> None:
    (row,) = gate.judge([cell(noise=(0.9, 1.1, 1.05, 0.95, 1.0))], Looks())
    assert row.verdict == Verdict.INCONCLUSIVE
    assert row.detectable > TIME.detect
    pairs = int(row.reason.split()[1])
    assert row.change is not None
    enough = [math.expm1(stats.detectable(row.change.spread, n, 0.05)) <= TIME.detect for n in (pairs - 1, pairs)]
    assert enough == [False, True]


def test_one_pair_is_never_a_pass() -> None:
    for factor in (1.0, 2.0):
        (row,) = gate.judge([cell(factor=factor, noise=(1.0,))], Looks())
        assert row.verdict == Verdict.INCONCLUSIVE
        assert row.reason.startswith("one pair says nothing of chance")


def test_what_may_be_zero_is_judged_by_differences() -> None:
    flat, leaking = (0.0, 0.0001, -0.0001, 0.0, 0.0), (0.0200, 0.0205, 0.0198, 0.0202, 0.0201)
    assert verdict(Cell("c", "vllm", LEAK, flat, leaking)) == ["regress"]
    assert verdict(Cell("c", "vllm", LEAK, flat, flat[::-1])) == ["pass"]
    assert verdict(Cell("c", "vllm", LEAK, leaking, flat)) == ["improve"]


def test_counts_that_never_vary_need_no_spread() -> None:
    count = METRICS["preemptions"]
    assert verdict(Cell("c", "vllm", count, (0, 0), (0, 0))) == ["pass"]
    assert verdict(Cell("c", "vllm", count, (0, 0), (3, 3))) == ["regress"]


def test_many_cells_ask_more_of_each() -> None:
    """p = 0.012 alone is a regression; among 20 it is not."""
    shaky = cell(factor=1.08, noise=(1.0, 1.05, 0.95, 1.03, 0.97))
    assert 0.002 < stats.paired([math.log(v) for v in shaky.head]).p < 0.05
    assert verdict(shaky) == ["regress"]
    assert verdict(shaky, *[cell()] * 19)[0] == "inconclusive"


def test_cells_that_inform_cost_those_that_block_nothing() -> None:
    shaky = cell(factor=1.08, noise=(1.0, 1.05, 0.95, 1.03, 0.97))
    informing = cell(METRICS["step_time"])
    assert not METRICS["step_time"].blocks
    assert verdict(shaky, *[informing] * 19)[0] == "regress"


def test_the_second_look_goes_to_inconclusive_cells_alone_and_has_its_own_alpha() -> None:
    looks = Looks(pairs=3, more=5)
    assert looks.plan == [(3, 0.04), (8, 0.01)]
    noise = (0.97, 1.03, 1.0, 1.01, 0.99, 1.0, 1.02, 0.98)
    settled = cell(factor=1.5, noise=(1.0, 1.001, 0.999, 0.1, 0.1, 0.1, 0.1, 0.1))  # what comes later is not looked at
    rows = gate.judge([cell(factor=1.08, noise=noise), settled], looks)
    assert [(row.look, row.alpha, row.verdict) for row in rows] == [(2, 0.01, "regress"), (1, 0.04, "regress")]
    assert rows[0].change is not None
    assert rows[0].change.pairs == 8


def test_without_more_pairs_there_is_no_second_look() -> None:
    (row,) = gate.judge([cell(noise=(0.9, 1.1, 1.0))], Looks(pairs=3, more=5))
    assert (row.look, row.verdict) == (1, "inconclusive")


def test_one_look_takes_the_pairs_that_were_planned() -> None:
    (row,) = gate.judge([cell(factor=1.0, noise=(*QUIET, 9.0))], Looks(pairs=5))
    assert row.verdict == "pass"


def test_two_looks_together_keep_to_alpha() -> None:
    """No effect, every trial extended: at most 5 % are flagged, with room for chance."""
    random, flagged, trials = np.random.default_rng(3), 0, 1500
    tight = replace(TIME, tolerance=0.0, detect=0.0)
    gc.collect()
    gc.freeze()  # statsmodels collects garbage in each call
    for values in np.exp(random.normal(0, 0.03, (trials, 8))):
        (row,) = gate.judge([Cell("c", "vllm", tight, (1.0,) * 8, tuple(values))], Looks(4, 4))
        flagged += row.flagged
    gc.unfreeze()
    assert 0.03 < flagged / trials < 0.065


def test_settled_and_new_cells_keep_what_they_are() -> None:
    invalid = Cell("c", "vllm", settled=Verdict.INVALID, reason="launch 3, cache: warm")
    new = Cell("c", "vllm", new=True, reason="base has no such benchmark")
    assert verdict(invalid, new, cell(factor=1.2)) == ["invalid", None, "regress"]


@pytest.mark.parametrize(
    ("cells", "expected", "code"),
    [
        ([cell()], "pass", 0),
        ([cell(), cell(factor=0.5)], "improve", 0),
        ([cell(factor=0.5), cell(factor=1.5)], "regress", 1),
        ([cell(), Cell("c", "e", settled=Verdict.INVALID)], "invalid", 3),
        ([cell(factor=1.5), Cell("c", "e", settled=Verdict.INVALID)], "regress", 1),
        ([cell(noise=(1.0,))], "inconclusive", 3),
        ([cell(METRICS["step_time"], 1.5), cell()], "pass", 0),  # informs
        ([Cell("c", "e", new=True)], "inconclusive", 3),  # nothing was judged
        ([], "inconclusive", 3),
    ],
)
def test_the_verdict_of_all(cells: list[Cell], expected: str, code: int) -> None:
    found = gate.overall(gate.judge(cells, Looks()))
    assert (found, gate.EXIT[found]) == (expected, code)


def test_a_failed_control_voids_every_figure() -> None:
    rows = gate.judge([cell(factor=1.5), Cell("c", "e", settled=Verdict.REGRESS, reason="fails on head")], Looks())
    assert [row.verdict for row in gate.distrust(rows, "the control moved")] == ["invalid", "regress"]


def test_blocking_metrics_are_few_and_each_has_a_direction() -> None:
    blocking = [metric for metric in METRICS.values() if metric.blocks]
    assert len(blocking) <= 12
    assert all(metric.better for metric in blocking)
    assert all(0 < metric.tolerance <= metric.detect for metric in METRICS.values())

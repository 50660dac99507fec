"""The simulated gate is the real one, keeps its promises, and finds what the figures of docs/gate.md say."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness import calibrate, gate, rivals
from harness.calibrate import Noise
from harness.gate import Cell, Looks, Verdict
from harness.metrics import METRICS, Metric
from harness.record import Certificate
from tests.factory import launch, record

SPEED, TIME = METRICS["output_throughput"], METRICS["sync_latency"]


def of_records(samples: np.ndarray, metric: Metric) -> list[Verdict | None]:
    """What the gate says of one trial's cells."""
    values = np.median(samples, axis=-1)
    cells = [Cell("c", "e", metric, tuple(base), tuple(head)) for base, head in values]
    return [row.verdict for row in gate.judge(cells, Looks())]


@pytest.mark.parametrize("effect", [0.0, 0.05, 0.20])
def test_the_simulated_gate_is_the_real_one(effect: float) -> None:
    (samples,) = Noise(launch=0.02).sessions(6, 4, 5, effect)
    found = calibrate.gate(samples, TIME, Looks())
    for trial in range(6):
        for cell, verdict in enumerate(of_records(samples[trial], TIME)):
            said = {"regress": found.regress, "improve": found.improve, "pass": found.sure}
            assert {k for k, v in said.items() if v[trial, cell]} == ({verdict} & said.keys())


def test_sessions_have_the_spread_and_the_effect_that_were_asked_for() -> None:
    noise = Noise(launch=0.02, inner=0.01, drift=0.0)
    (samples,) = noise.sessions(250, 2, 8, effect=0.10)
    logs = np.log(samples)
    assert samples.shape == (250, 2, 2, 8, 8)
    assert logs.std(axis=-1, ddof=1).mean() == pytest.approx(0.01, rel=0.05)
    assert logs.mean(axis=-1).std() == pytest.approx(
        np.sqrt(0.02**2 + 0.01**2 / 8 + np.log(1.1) ** 2 * 3 / 16), rel=0.05
    )
    assert logs[:, 0, 1].mean() - logs[:, 0, 0].mean() == pytest.approx(np.log(1.1), abs=0.002)
    assert abs(logs[:, 1, 1].mean() - logs[:, 1, 0].mean()) < 0.002


def test_a_drift_hits_both_sides_alike_over_two_pairs() -> None:
    (samples,) = Noise(launch=0, inner=0, drift=0.03).sessions(1, 1, 2)
    assert np.log(samples[0, 0, :, :, 0]) == pytest.approx(np.array([[0.0, 0.03], [0.01, 0.02]]))


def test_promises_of_the_gate_hold() -> None:
    """2 % between launches, 1 % inside, drift 1 %, 20 cells."""
    few, more = (calibrate.rates(Noise(), SPEED, pairs, [0.05], 20, 1500) for pairs in (5, 8))
    assert few.alarm <= few.flag < 0.05
    assert few.power[0.05][0] > 0.74
    assert more.power[0.05][0] > 0.94
    assert few.power[0.05][1] < 0.3  # what Holm over 20 leaves of it
    assert more.sure[0] > 0.9


def test_other_tools_see_the_same_sessions() -> None:
    alarm, power = rivals.rates("pooled Mann-Whitney", Noise(), 5, 0.05, 20, 250)
    assert alarm > 0.9
    assert power > 0.9
    assert rivals.rates("pytest-benchmark, min:5%", Noise(), 5, 0.05, 20, 250)[0] > 0.1
    asv = {name: rivals.rates(name, Noise(), 8, 0.05, 20, 250) for name in rivals.RIVALS if name.startswith("asv")}
    assert asv["asv, factor 1.1 (its default)"][1] < 0.05
    assert asv["asv, factor 1.03"][1] > 0.5


def test_asv_misses_everything_at_six_values_a_side() -> None:
    samples = np.ones((1, 1, 2, 6, 1)) * np.linspace(1, 1.01, 6)[:, None]
    samples[:, :, 1] *= 2
    assert not rivals.asv(1.1)(samples)[0, 0]
    samples = np.ones((1, 1, 2, 8, 1)) * np.linspace(1, 1.01, 8)[:, None]
    samples[:, :, 1] *= 2
    assert rivals.asv(1.1)(samples)[0, 0]


def test_the_pooled_test_is_scipys() -> None:
    (samples,) = Noise().sessions(3, 1, 3, 0.05)
    for trial in range(3):
        base, head = samples[trial, 0].reshape(2, -1)
        p = scipy_stats.mannwhitneyu(base, head, method="asymptotic").pvalue
        assert rivals.pooled(samples)[trial, 0] == (p < 0.05 and np.median(head) > np.median(base))


def test_spreads_are_pooled_over_sessions() -> None:
    twice = [record(values=(100.0, 110.0)), record(values=(200.0, 210.0, 190.0))]
    found = calibrate.spreads(twice)
    spread = found["single_turn/tiny-16", "vllm", "output_throughput"]
    parts = [np.var(np.log(v), ddof=1) * (len(v) - 1) for v in ((100, 110), (200, 210, 190))]
    assert spread.between == pytest.approx(np.sqrt(sum(parts) / 3))
    assert (spread.freedom, spread.noise(0.01).samples) == (3, 3)
    assert spread.within == pytest.approx(np.std(np.log([99, 100, 101]), ddof=1), rel=0.01)
    assert spread.noise(0.0).launch < spread.between
    assert {name for *_, name in found} == {"output_throughput"}
    scheduled = [record(params=record().params | {"rate": 2.0})]
    assert {name for *_, name in calibrate.spreads(scheduled)} == {"ttft"}


def test_what_a_pair_finds_counts_both_launches() -> None:
    spread = calibrate.Spread(TIME)
    spread.add([[1.0], [1.1], [1.2]])
    assert spread.detectable(5, 0.05) == pytest.approx(np.expm1(np.sqrt(2) * spread.between * 1.682), rel=0.01)


def test_records_that_prove_nothing_are_left_out() -> None:
    broken = {"certificates": {"cache": Certificate(ok=False, figure=1, reason="warm")}}
    assert calibrate.spreads([record(values=(1.0,)), record(launches=[launch(n, 1.0, **broken) for n in (1, 2)])]) == {}


def test_launches_that_the_machine_spoilt_count_where_it_is_shared() -> None:
    load = {"certificates": {"load": Certificate(ok=False, figure=1, reason="others used half")}}
    found = record(launches=[launch(1, 100.0), launch(2, 101.0), launch(3, 50.0, **load)])
    freedom = [
        calibrate.spreads([found], shared)["single_turn/tiny-16", "vllm", "output_throughput"].freedom
        for shared in (False, True)
    ]
    assert freedom == [1, 2]

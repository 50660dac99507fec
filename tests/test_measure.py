"""Warm-up, steady state, and the figures of a launch."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.single_turn import CASES
from harness import machine, measure
from harness.audit import Audit
from harness.record import Certificate, Launch
from harness.rollouts import Answer, gather
from harness.series import Series
from harness.workload import independent


class Warming:
    """A scenario whose steps take the times given, one after another; the last one for ever."""

    warmup, steady = 2, "step_time"

    def __init__(self, times: Sequence[float]) -> None:
        self.times, self.indices = list(times), list[int]()

    def step(self, rig: Any, index: int) -> dict[str, float]:
        self.indices.append(index)
        return {"step_time": self.times.pop(0) if len(self.times) > 1 else self.times[0]}


@pytest.mark.parametrize(
    ("times", "steps"),
    [
        ([1.0, 1.0, 1.0], 3),  # three that agree
        ([9.0, 3.0, 1.0, 1.05, 1.0], 5),  # from the third on
        ([1.0, 2.0] * 8, 8),  # never: four times as many as wanted
    ],
)
def test_warm_up_ends_when_three_steps_agree(times: list[float], steps: int) -> None:
    scenario: Any = Warming(times)
    values = measure.warm_up(SimpleNamespace(), scenario, lambda text: None)  # type: ignore[arg-type]
    assert len(values) == steps
    assert min(scenario.indices) >= measure.WARM  # never the workload of a step that counts


def test_warm_up_that_never_settles_ends_a_minute_behind_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=25.0)
    monkeypatch.setattr(measure.time, "monotonic", lambda: next(clock))
    scenario: Any = Warming([1.0, 2.0] * 8)
    assert len(measure.warm_up(SimpleNamespace(), scenario, lambda text: None)) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "ok"),
    [
        ([1.0, 1.02, 0.99, 1.01, 1.0], True),
        ([1.0, 1.1, 1.2, 1.3, 1.4], False),  # still rising
        ([1.0, 0.9, 0.8, 0.7, 0.6], False),  # still warming
        ([1.0, 3.0, 0.9, 2.5, 1.1], True),  # noise, no trend
        ([1.0, 2.0, 3.0, 4.0], None),  # too few to tell
    ],
)
def test_a_trend_over_the_measured_steps_is_not_steady(values: list[float], ok: bool | None) -> None:
    found = measure.steady(values, [1.0, 1.0, 2.0])
    assert (found.ok, "not settled after 3 warm-up steps" in found.reason) == (ok, True)


def test_a_change_that_comes_again_is_no_chance() -> None:
    noisy = [1.0, 3.0, 0.9, 2.5, 1.1, 3.2]
    assert [measure.steady(noisy, [1.0] * 3, anew).ok for anew in (0, 1)] == [True, False]


@pytest.mark.parametrize(
    ("steps", "noise", "drift", "once", "anew"),
    [(5, 0.02, 0.15, 0.54, 0.48), (10, 0.05, 0.15, 0.37, 0.23), (8, 0.05, 0, 0, 0)],
)
def test_a_drift_that_goes_on_voids_about_as_many_launches(
    steps: int, noise: float, drift: float, once: float, anew: float
) -> None:
    random, trials, void = np.random.default_rng(0), 1000, [0, 0]
    for _ in range(trials):
        for window in range(measure.ANEW + 1):
            line = (1 + drift) ** window * np.linspace(1, 1 + drift, steps)
            values = (line * (1 + random.normal(0, noise, steps))).tolist()
            drifts = measure.steady(values, [1.0] * 3, window).ok is False
            void[0] += drifts and not window
            if not drifts:
                break
        void[1] += drifts
    assert [count / trials for count in void] == pytest.approx([once, anew], abs=0.04)


class Timed(Warming):
    """Steps that count alone; each window of five with a trend may be measured anew."""

    steps, again = 5, True


RISING, LEVEL = [1.0, 1.1, 1.2, 1.3, 1.4], [2.0] * 5


@pytest.mark.parametrize(
    ("times", "again", "seconds", "windows"),
    [
        (LEVEL, True, 0.0, 1),
        (RISING + LEVEL, True, 0.0, 2),
        (RISING * 4, True, 0.0, 3),  # never: twice anew
        (RISING * 4, False, 0.0, 1),  # a step that cannot be done again
        (RISING * 4, True, 35.0, 1),  # too long
    ],
)
def test_steps_with_a_trend_are_measured_anew(
    monkeypatch: pytest.MonkeyPatch, times: list[float], again: bool, seconds: float, windows: int
) -> None:
    clock = itertools.count(step=seconds)
    monkeypatch.setattr(measure.time, "monotonic", lambda: next(clock))
    scenario: Any = Timed(times)
    scenario.again = again
    launch, audits = SimpleNamespace(age_s=0.0), list[int]()
    case = measure.Measured("x", scenario, Path("x"), launch)  # type: ignore[arg-type]
    engine: Any = SimpleNamespace(reset_audit=lambda: audits.append(1), age=7.0)
    measure.steps(engine, case, lambda text: None)
    assert case.samples == {"step_time": times[5 * windows - 5 : 5 * windows]}
    assert case.drifted == [RISING] * (windows - 1)
    assert (len(audits), scenario.indices) == (windows, list(range(5)) * windows)
    words = {1: "", 2: "measured anew once", 3: "measured anew twice"}[windows]
    assert words in measure.steady(case.samples["step_time"], [1.0] * 3, len(case.drifted)).reason


def rig(calls: int = 1) -> Any:
    requests = independent((0,), [10, 10], [5, 5], 100)
    answers = [Answer([1] * 5, prompt_ids=ids, prompt=10, cached=0, first=0.1, done=0.5) for ids in requests.new]
    audit = Audit()
    for _ in range(calls):
        audit.add(requests, gather(answers, 0.0, 0.5, 0), 0.0)
    return SimpleNamespace(audit=audit, baseline_mib=[1000, 0], facts={})


def series(**columns: list[Any]) -> Series:
    found = {"t": [0.0, 1.0, 2.0], "own": [0.0, 1.0, 2.0], "rss": [2**30, 3 * 2**30, 2**30]} | columns
    return Series({name: np.array(values, float) for name, values in found.items()}, "")


def test_on_a_cpu_memory_is_resident_and_there_is_no_energy() -> None:
    window = series().window(0.0, 2.0)
    found, missing = measure.launch_figures(rig(), CASES["tiny-16"], window, window)
    assert found["peak_memory"] == found["host_memory"] == 3.0
    assert missing == dict.fromkeys(("energy", "gpu_busy", "mfu", "mbu"), "no GPU")


def test_on_a_gpu_memory_is_the_peak_above_the_baseline_and_energy_the_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpu_names", lambda: ("NVIDIA H100 80GB HBM3",))
    gib = 2**30
    seen = series(
        used=[[2 * gib, 0], [11 * gib, 9 * gib], [3 * gib, 0]],
        millijoules=[[0, 0], [50_000, 7], [100_000, 9]],
        watts=[[50, 50]] * 3,
        utilisation=[[100, 0], [40, 0], [70, 0]],
        sm_mhz=[[1980, 345]] * 3,
        throttle=[[0, 1]] * 3,
    )
    window, case = seen.window(0.0, 2.0), CASES["0.5B-16"]
    found, missing = measure.launch_figures(rig(2), case, window, window)
    assert found["peak_memory"] == pytest.approx(11 - 1000 / 1024)
    assert found["energy"] == pytest.approx(100 / 20)
    assert found["gpu_busy"] == pytest.approx(0.7)
    assert 0 < found["mfu"] < 1
    assert found["mbu"] > 0
    assert missing == {}


def filled(folder: Path, **facts: Any) -> Launch:
    """The launch of a case that was opened at 3.5 s of a series, and measured from 4.5 to 5.5 s."""
    now, rss = datetime.now(UTC), [1, 9, 2, 1, 3, 5, 2, 4]
    seen = series(t=[float(t) for t in range(8)], own=[0.0] * 8, rss=[x * 2**30 for x in rss])
    launch = Launch(order=1, pair=1, started=now, ended=now, boot_id="boot", facts=facts)
    case = measure.Measured("a", CASES["tiny-16"], folder / "a.log", launch, opened=3.5, begun=4.5, ended=5.5)
    measure.fill(case, seen, 0.0, Certificate(ok=True, figure=0, reason="clean"))
    return launch


def test_memory_of_a_case_that_shares_its_launch_is_its_own(tmp_path: Path) -> None:
    alone, shared = filled(tmp_path), filled(tmp_path, shared={"cases": ["a", "b"], "position": 1})
    assert (alone.samples["peak_memory"], shared.samples["peak_memory"]) == ([9.0], [5.0])
    assert alone.samples["host_memory"] == shared.samples["host_memory"] == [5.0]
    assert shared.facts["shared"] == {"cases": ["a", "b"], "position": 1}


def test_a_window_without_a_row_says_why_there_is_no_memory() -> None:
    window = series().window(0.2, 0.8)
    found, missing = measure.launch_figures(rig(), CASES["tiny-16"], window, window)
    assert found == {}
    assert missing["peak_memory"] == "the sampler read no memory of the processes"


def test_a_gpu_without_known_peaks_has_no_utilisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpu_names", lambda: ("Unknown 9000",))
    found, missing = measure.utilisation(rig(), replace(CASES["0.5B-16"]))
    assert found == {}
    assert missing["mfu"] == "no peak rates known of Unknown 9000"


def test_a_mixture_of_experts_has_mfu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpu_names", lambda: ("NVIDIA H100 80GB HBM3",))
    found, missing = measure.utilisation(rig(), replace(CASES["0.5B-16"], model="Qwen3-30B-A3B"))
    assert found.keys() == {"mfu"}
    assert missing == {"mbu": "a mixture of experts: which of them a step reads is not known"}


def test_work_sums_over_calls() -> None:
    config = {"model_type": "qwen2", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 32}  # fmt: skip
    one, two = (measure.work(config, rig(n).audit.calls, 2) for n in (1, 2))
    assert two == pytest.approx([2 * x for x in one])

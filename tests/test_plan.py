"""What a run is expected to take."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from harness import store
from harness.plan import GUESS, Plan, spoken
from harness.plan import START as READY
from tests.factory import START, launch, record

KEY = ("single_turn/tiny-16", "vllm")


def test_a_launch_takes_as_long_as_in_the_newest_record(tmp_path: Path) -> None:
    store.save(record(), tmp_path)  # 30 s a launch
    slow = [launch(i, 1.0, ended=START + timedelta(minutes=i, seconds=50)) for i in (1, 2)]
    store.save(record(launches=slow, started=START.replace(year=2027)), tmp_path)
    plan = Plan.read(tmp_path, "cpu", [KEY, ("other", "vllm")])
    assert plan.seconds(KEY) == 50
    assert plan.seconds(("other", "vllm")) == GUESS["cpu"]
    assert plan.total([[KEY], [KEY], [("other", "vllm")]]) == 100 + GUESS["cpu"]


def test_what_was_measured_now_counts(tmp_path: Path) -> None:
    plan = replace(Plan.read(tmp_path, "cuda", [KEY]))
    assert plan.seconds(KEY) == GUESS["cuda"]
    plan.took(KEY, launch(1, 1.0, ended=START + timedelta(minutes=1, seconds=10)))
    assert plan.seconds(KEY) == 10


def test_cases_that_share_a_launch_wait_for_its_engine_once() -> None:
    plan, other = Plan("cpu"), ("weight_sync/tiny-disk", "vllm")
    plan.took(KEY, launch(1, 1.0, samples={"startup": [20.0]}))  # 30 s, 10 of them its own
    shared = {"shared": {"cases": ["x", "y"], "position": 2}}
    plan.took(other, launch(1, 1.0, samples={"startup": [24.0]}, facts=shared))  # 30 s, all of them its own
    assert plan.seconds(KEY) == 30
    assert plan.seconds(other) == 24 + 30
    assert plan.seconds(KEY, other) == 24 + 10 + 30
    unknown = ("new", "vllm")
    assert plan.seconds(KEY, unknown) == 30 + GUESS["cpu"] - READY["cpu"]
    assert plan.seconds(unknown, ("newer", "vllm")) == 2 * GUESS["cpu"] - READY["cpu"]
    assert plan.total([[KEY, other], [KEY]]) == 64 + 30


@pytest.mark.parametrize(("seconds", "words"), [(40, "40 s"), (240, "4 min"), (7800, "2 h 10 min")])
def test_times_are_spoken(seconds: float, words: str) -> None:
    assert spoken(seconds) == words

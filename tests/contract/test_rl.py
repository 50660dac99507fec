"""The contract of whole RL steps: `pytest tests/contract -m real --engine vllm` (or sglang).

One launch serves all tests; each has a trainer of its own. The fake has no weights to learn.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.rl_step import CASES, RLStep
from harness import envs, machine
from harness.metrics import METRICS
from harness.record import Certificate
from harness.rig import Rig, log_path

pytestmark = pytest.mark.skipif(bool(machine.gpu_names()), reason="a CPU's cases")
TINY = CASES["tiny-grpo"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        name = metafunc.config.getoption("--engine")
        skipped = [] if name != "fake" else [pytest.mark.skip("the fake holds no weights")]
        metafunc.parametrize("engine", [pytest.param(name, marks=[pytest.mark.real, *skipped])], scope="module")


@pytest.fixture(scope="module")
def rig(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = Path(os.environ.get("OUT", tmp_path_factory.mktemp("rl")))
    with Rig(envs.find(engine), TINY.model, TINY.options, log_path(folder, f"{engine}-rl", 0), 600, print) as rig:
        yield rig


def run(rig: Rig, case: RLStep, steps: int) -> tuple[list[dict[str, float]], dict[str, Certificate]]:
    rig.begin(rig.log)
    try:
        found = [case.step(rig, index) for index in range(steps)]
        certificates = case.finish(rig) | rig.audit.certificates()
    finally:
        rig.unlink()
    assert all(samples.keys() <= METRICS.keys() for samples in found), found[0].keys() - METRICS.keys()
    print(found[-1], certificates, rig.facts["held_out"], rig.facts["curve"])
    return found, certificates


def wrong(certificates: dict[str, Certificate]) -> dict[str, str]:
    return {name: one.reason for name, one in certificates.items() if one.ok is False}


@pytest.mark.long
def test_a_policy_learns_to_copy(rig: Rig) -> None:
    """At most 3 minutes; the reward of greedy answers to prompts that were never learnt from."""
    found, certificates = run(rig, CASES["tiny-grpo-learns"], CASES["tiny-grpo-learns"].steps)
    assert not wrong(certificates)
    assert found[-1]["reward"] > found[0]["reward"] + 0.1
    assert rig.facts["held_out"] >= 0.9


@pytest.mark.parametrize(
    "name",
    ["dapo", "grpo-off"]
    + [pytest.param(name, marks=pytest.mark.long) for name in ("ppo", "rloo", "grpo-lora", "grpo-tool", "grpo-ranks")],
)
def test_a_step_of_every_kind_is_whole_and_proved(rig: Rig, name: str) -> None:
    found, certificates = run(rig, CASES[f"tiny-{name}"], 2)
    assert not wrong(certificates)
    last = found[-1]
    phases = sum(seconds for metric, seconds in last.items() if metric.startswith("phase_"))
    assert phases - 2 * last["phase_hidden"] == pytest.approx(last["step_time"], rel=0.01)
    assert last["rl_throughput"] > 0
    assert last["lag"] == (1 if name == "grpo-off" else 0)


def test_nothing_changes_at_a_rate_of_0(rig: Rig) -> None:
    found, certificates = run(rig, CASES["tiny-grpo-still"], 3)
    assert certificates["still"].ok, certificates["still"]
    assert not wrong(certificates)
    assert found[-1]["mismatch_mean"] < 1e-4


def test_what_was_learnt_moves_the_outputs(rig: Rig) -> None:
    """The certificate of the test above can fail."""
    case = CASES["tiny-grpo-still"]
    rig.begin(rig.log)
    case.step(rig, 0)
    rig.crew(case.transport, case.how, case.lesson).update(1)
    rig.crew(case.transport, case.how, case.lesson).sync()
    assert case._still(rig).ok is False
    rig.unlink()


@pytest.mark.long
def test_an_adapter_alone_is_learnt_and_synced(engine: str, tmp_path: Path) -> None:
    """In a launch of its own: the engine must have room for one."""
    case = CASES["tiny-grpo-adapter"]
    with Rig(envs.find(engine), case.model, case.options, log_path(tmp_path, engine, 0), 600, print) as rig:
        _, certificates = run(rig, case, 2)
    assert certificates["proof"].ok
    assert not wrong(certificates)

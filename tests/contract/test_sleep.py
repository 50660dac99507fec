"""The contract of sleep and wake: `pytest tests/contract -m real --engine vllm` (or sglang).

Without a GPU an engine has nothing to give back: it must say so itself, and the record must hold its words. A pause,
which frees nothing, works everywhere. The fake is in tests/test_sleep_wake.py.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sleep_wake import CASES, SleepWake, _outputs
from harness import envs, machine, runner, store
from harness.errors import LaunchFailed
from harness.record import Record
from harness.rig import Rig, log_path

ON_GPU = bool(machine.gpu_names())
PAUSE = CASES["0.5B-pause" if ON_GPU else "tiny-pause"]
WORDS = {"vllm": "Sleep mode is not supported on current platform", "sglang": "libcuda.so.1: cannot open shared object"}
WAYS = ("backup", "backup-staged", "discard", "discard-staged", "discard-graphs", "kv", "weights")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        name = metafunc.config.getoption("--engine")
        skipped = [] if name != "fake" else [pytest.mark.skip("the fake has tests of its own")]
        metafunc.parametrize("engine", [pytest.param(name, marks=[pytest.mark.real, *skipped])], scope="module")


@pytest.fixture(scope="module")
def rig(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = Path(os.environ.get("OUT", tmp_path_factory.mktemp("sleep")))
    log = log_path(folder, f"{engine}-sleep", 0)
    with Rig(envs.find(engine), PAUSE.model, PAUSE.options, log, 600, print) as rig:
        yield rig


def run(engine: str, case: SleepWake, root: Path) -> tuple[Record, int]:
    plan = runner.Run([envs.find(engine)], 1, root, False, 600, print, print)
    (path,), missing = plan.cases({"sleep_wake/contract": case})
    return store.load(path), missing


def test_a_cycle_that_frees_nothing_leaves_outputs_as_they_were(rig: Rig) -> None:
    for index in range(2):
        found = PAUSE.step(rig, index)
        assert found["sleep_time"] > 0
        assert found["wake_time"] > 0
    certificates = PAUSE.finish(rig)
    print(found, rig.facts["cycles"], certificates)
    assert certificates["outputs"].ok is True
    assert PAUSE.once(rig).keys() >= {"sleep_first", "wake_first"}


def test_a_paused_engine_goes_on_where_it_was_and_answers_nothing_until_then(rig: Rig) -> None:
    """The last of this launch: the call that gets no answer ends it."""
    before = _outputs(rig)
    rig.sleep({})
    rig.wake([])
    rig.flush()
    np.testing.assert_array_equal(before.tokens_BT, _outputs(rig).tokens_BT)
    rig.sleep({})
    rig.timeout = 3
    with pytest.raises(LaunchFailed, match="no answer to generate within 3 s"):
        _outputs(rig)


@pytest.mark.skipif(ON_GPU, reason="a GPU's memory can be given back")
def test_an_engine_without_a_device_says_in_its_own_words_that_it_cannot(engine: str, tmp_path: Path) -> None:
    record, missing = run(engine, CASES["tiny"], tmp_path)
    print(record.unsupported, record.versions)
    assert missing == 0
    assert WORDS[engine] in str(record.unsupported)
    assert record.good == []
    assert "torch" in record.versions


@pytest.mark.skipif(not ON_GPU, reason="no GPU")
@pytest.mark.parametrize("way", WAYS)
def test_memory_is_given_back_and_outputs_stay(engine: str, way: str, tmp_path: Path) -> None:
    """Or the engine says that it cannot do it in this way."""
    record, missing = run(engine, replace(CASES[f"0.5B-{way}"], warmup=1, steps=3), tmp_path)
    assert missing == 0
    if record.unsupported:
        print(way, record.unsupported)
        assert way in ("discard-graphs", "kv", "weights")
        return
    (launch,) = record.good
    print(way, launch.samples, launch.certificates, launch.facts["cycles"])
    assert [launch.certificates[name].ok for name in ("outputs", "freed")] == [True, True]

"""The engine contract: `pytest tests/contract -m real --engine vllm` (or sglang), `-m "not real"` for the fake.

One launch serves all tests in the order of this file; the last one ends it. Prompts are longer than two blocks of any
engine's prefix cache.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness import client, envs, machine
from harness.rig import Rig, log_path
from harness.rollouts import Prompts, token_hash
from harness.scenario import Options
from harness.workload import random_prompts

GPU = bool(machine.gpu_names())
# On a GPU everything is as in a benchmark; on a CPU nothing is compiled, or the suite would take minutes.
CPU = Options(dtype="float32", eager=True, multiprocessing=False, max_running=64)
OPTIONS = Options(max_running=512) if GPU else CPU
REQUESTS, INPUT, OUTPUT = 6, 300, 12


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        name = metafunc.config.getoption("--engine")
        mark = [pytest.mark.real] if name != "fake" else []
        metafunc.parametrize("engine", [pytest.param(name, marks=mark)], scope="module")


@pytest.fixture(scope="module")
def rig(engine: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = Path(os.environ.get("OUT", tmp_path_factory.mktemp("contract")))
    model = request.config.getoption("--model")
    with Rig(envs.find(engine), model, OPTIONS, log_path(folder, engine, 0), 600, print) as rig:
        rig.worker  # noqa: B018, starts it
        print(f"{engine} with {model} was ready after {rig.startup:.1f} s; {rig.versions}; {rig.flags}")
        yield rig


@pytest.fixture
def prompts(rig: Rig) -> Prompts:
    rig.flush()
    return random_prompts((7,), REQUESTS, INPUT, OUTPUT, rig.vocabulary)


def test_says_what_it_is(rig: Rig, engine: str) -> None:
    assert rig.versions["python"]
    assert rig.vocabulary > 1000
    assert rig.flags["max_model_len"] == OPTIONS.max_model_len
    if engine != "fake":
        assert "torch" in rig.versions
        assert any(name.startswith(engine) for name in rig.versions)


def test_generates_exactly_as_many_tokens_as_asked(rig: Rig, prompts: Prompts) -> None:
    mixed = Prompts(prompts.ids_BL, np.array([1, 2, 5, OUTPUT, 33, 64], np.int32))
    out = rig.generate(mixed, temperature=1.0)
    assert out.output_B.tolist() == mixed.output_B.tolist()
    assert out.tokens_BT.shape == (REQUESTS, 64)
    assert ((out.tokens_BT >= -1) & (out.tokens_BT < rig.vocabulary)).all()


def test_gets_the_very_tokens_that_were_sent(rig: Rig, prompts: Prompts) -> None:
    lengths = (300, 1, 2, 129, 128, 31)
    ids = prompts.ids_BL.copy()
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = -1
    mixed = Prompts(ids, prompts.output_B)
    out = rig.generate(mixed, temperature=0.0)
    assert out.prompt_B.tolist() == list(lengths)
    assert str(out.prompts_sha256) == token_hash(mixed.ids_BL)


def test_audit_certifies_what_was_declared_and_nothing_else(rig: Rig, prompts: Prompts) -> None:
    rig.reset_audit()
    rig.generate(prompts, temperature=0.0, cached=0)
    assert all(certificate.ok for certificate in rig.audit.certificates().values())
    rig.generate(prompts, temperature=0.0, cached=0)  # the cache is warm now: the declaration is wrong
    assert [name for name, c in rig.audit.certificates().items() if not c.ok] == ["cache"]


def test_greedy_is_repeatable(rig: Rig, prompts: Prompts) -> None:
    first = rig.generate(prompts, temperature=0.0)
    rig.flush()
    second = rig.generate(prompts, temperature=0.0)
    np.testing.assert_array_equal(first.tokens_BT, second.tokens_BT)


def test_output_depends_on_the_prompt(rig: Rig, prompts: Prompts) -> None:
    other = random_prompts((8,), REQUESTS, INPUT, OUTPUT, rig.vocabulary)
    a, b = (rig.generate(p, temperature=0.0) for p in (prompts, other))
    assert (a.tokens_BT != b.tokens_BT).any(axis=1).all()


def test_returns_logprobs_of_the_chosen_tokens(rig: Rig, prompts: Prompts) -> None:
    out = rig.generate(prompts, temperature=0.0, logprobs=True)
    assert out.logprobs_BT.shape == out.tokens_BT.shape
    assert np.isfinite(out.logprobs_BT).all()
    assert (out.logprobs_BT <= 0).all()
    assert rig.generate(prompts, temperature=0.0).logprobs_BT.size == 0


def test_reports_cached_tokens_until_flushed(rig: Rig, prompts: Prompts) -> None:
    cold = rig.generate(prompts, temperature=0.0)
    warm = rig.generate(prompts, temperature=0.0)
    rig.flush()
    flushed = rig.generate(prompts, temperature=0.0)
    assert cold.cached_B.tolist() == [0] * REQUESTS
    assert (warm.cached_B >= 128).all()
    assert (warm.cached_B < INPUT).all()
    assert flushed.cached_B.tolist() == [0] * REQUESTS


def test_gives_times_of_each_request(rig: Rig, prompts: Prompts) -> None:
    out = rig.generate(prompts, temperature=0.0)
    assert (out.first_B > 0).all()
    assert (out.first_B <= out.done_B).all()
    # The engines' own stamps are taken on their side of the call; half a second bounds what lies between.
    assert (out.done_B <= float(out.seconds) + 0.5).all()


def test_many_requests_at_once(rig: Rig) -> None:
    many = random_prompts((9,), 64, 16, 8, rig.vocabulary)
    assert rig.generate(many, temperature=1.0).output_B.tolist() == [8] * 64


def test_memory_is_reported(rig: Rig) -> None:
    assert rig.memory_gib() > 0.01


def test_closes_leaving_nothing(rig: Rig) -> None:
    leader = rig.worker.pid
    before = client.group(leader)
    certificate = rig.shut_down()
    time.sleep(0.1)
    assert before
    assert certificate.ok, certificate.reason
    assert client.group(leader) == []

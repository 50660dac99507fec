"""The engine contract: `pytest tests/contract -m real --engine vllm` (or sglang), `-m "not real"` for the fake.

One launch serves all tests in the order of this file; the last one ends it. Prompts are longer than two blocks of any
engine's prefix cache.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import CPU
from harness import audit, client, envs, machine
from harness.rig import Rig, log_path
from harness.rollouts import Requests, Rollouts, ids_hash
from harness.scenario import Options
from harness.workload import arriving, conversations, grouped, independent, reusable

# On a GPU everything is as in a benchmark; on a CPU nothing is compiled, or the suite would take minutes.
OPTIONS = replace(
    Options(max_running=512) if machine.gpu_names() else replace(CPU, max_running=64),
    native={"fake": {"seconds_per_token": 0.001}},
)
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


def batch(rig: Rig, seed: int = 7, inputs: Sequence[int] = (INPUT,) * REQUESTS, tokens: int = OUTPUT) -> Requests:
    """Prompts that share nothing, all due at once."""
    return independent((seed,), inputs, [tokens] * len(inputs), rig.vocabulary)


@pytest.fixture
def requests(rig: Rig) -> Requests:
    """A batch, and an empty prefix cache."""
    rig.flush()
    return batch(rig)


def came_as_asked(requests: Requests, out: Rollouts) -> None:
    assert out.output_B.tolist() == requests.output_B.tolist()
    assert out.prompt_B.tolist() == requests.prompt_B.tolist()
    assert str(out.prompts_sha256) == ids_hash(requests.prompts(out.tokens_BT))


def broken(rig: Rig) -> list[str]:
    """Certificates that do not hold, but for the client's: a busy machine may make it slow."""
    return [name for name, c in rig.audit.certificates().items() if c.ok is False and name != "client"]


def test_says_what_it_is(rig: Rig, engine: str) -> None:
    assert rig.versions["python"]
    assert rig.vocabulary > 1000
    assert rig.flags["max_model_len"] == OPTIONS.max_model_len
    if engine != "fake":
        assert "torch" in rig.versions
        assert any(name.startswith(engine) for name in rig.versions)


def test_generates_exactly_as_many_tokens_as_asked(rig: Rig, requests: Requests) -> None:
    mixed = replace(requests, output_B=np.array([1, 2, 5, OUTPUT, 33, 64], np.int32))
    out = rig.generate(mixed, temperature=1.0)
    came_as_asked(mixed, out)
    assert out.tokens_BT.shape == (REQUESTS, 64)
    assert ((out.tokens_BT >= -1) & (out.tokens_BT < rig.vocabulary)).all()


def test_gets_the_very_tokens_that_were_sent(rig: Rig) -> None:
    mixed = batch(rig, inputs=(300, 1, 2, 129, 128, 31), tokens=2)
    came_as_asked(mixed, rig.generate(mixed, temperature=0.0))


def test_audit_certifies_what_was_declared_and_nothing_else(rig: Rig, requests: Requests) -> None:
    rig.reset_audit()
    rig.generate(requests, temperature=0.0)
    assert broken(rig) == []
    rig.generate(requests, temperature=0.0)  # the cache is warm now, where nothing was to be shared
    assert broken(rig) == ["cache"]


def test_greedy_is_repeatable_and_depends_on_the_prompt(rig: Rig, requests: Requests) -> None:
    """One at a time: sums in another order, as another batch makes them, may choose another token."""
    first = rig.generate(requests, temperature=0.0, concurrency=1)
    rig.flush()
    second = rig.generate(requests, temperature=0.0, concurrency=1)
    np.testing.assert_array_equal(first.tokens_BT, second.tokens_BT)
    other = rig.generate(batch(rig, seed=8), temperature=0.0)
    assert (first.tokens_BT != other.tokens_BT).any(axis=1).all()


def test_returns_logprobs_of_the_chosen_tokens(rig: Rig, requests: Requests) -> None:
    out = rig.generate(requests, temperature=0.0, logprobs=True)
    assert out.logprobs_BT.shape == out.tokens_BT.shape
    assert np.isfinite(out.logprobs_BT).all()
    assert (out.logprobs_BT <= 0).all()
    assert rig.generate(requests, temperature=0.0).logprobs_BT.size == 0


def test_reports_cached_tokens_until_flushed(rig: Rig, requests: Requests) -> None:
    cold = rig.generate(requests, temperature=0.0)
    warm = rig.generate(requests, temperature=0.0)
    rig.flush()
    flushed = rig.generate(requests, temperature=0.0)
    assert cold.cached_B.tolist() == [0] * REQUESTS
    assert (warm.cached_B >= 128).all()
    assert (warm.cached_B < INPUT).all()
    assert flushed.cached_B.tolist() == [0] * REQUESTS


def test_a_later_turn_holds_and_reuses_the_turns_before_it(rig: Rig) -> None:
    talks = conversations((9,), 3, 2, 256, INPUT - 256, OUTPUT, 0.05, rig.vocabulary)
    rig.flush()
    rig.reset_audit()
    out = rig.generate(talks, temperature=1.0, cache_floor=0.5)
    came_as_asked(talks, out)
    assert broken(rig) == []
    assert (out.cached_B[1::2] > 0).all()
    assert (out.cached_B <= reusable(talks)).all()
    assert (out.sent_B[1::2] >= out.done_B[::2] + talks.due_B[1::2] - 1e-3).all()  # the pauses were kept


def test_a_group_shares_its_prompt_and_each_answer_is_its_own(rig: Rig, engine: str) -> None:
    groups = grouped(batch(rig, seed=11, inputs=(INPUT, INPUT)), 3)
    rig.flush()
    out = rig.generate(groups, temperature=1.0)
    came_as_asked(groups, out)
    assert (out.cached_B <= reusable(groups)).all()
    if engine != "fake":  # which draws nothing
        assert len({tuple(row) for row in out.tokens_BT.tolist()}) == 6


def test_gives_times_of_each_request(rig: Rig) -> None:
    """Of short prompts and long answers, so that the first token comes early."""
    requests = batch(rig, seed=12, inputs=(16,) * 4, tokens=96)
    begun = time.perf_counter()
    out = rig.generate(requests, temperature=0.0)
    assert 0 < float(out.seconds) <= time.perf_counter() - begun
    assert (out.due_B >= 0).all()
    assert (out.due_B <= out.sent_B).all()
    assert (out.sent_B < out.first_B).all()
    assert (audit.ttft(out) < 0.8 * audit.latency(out)).all()
    assert (out.done_B <= float(out.seconds)).all()
    assert (out.queued_B >= 0).all()  # which is false of what is not told
    assert out.gaps_N.size == 0
    assert int(out.preemptions) == 0


def test_streams_a_gap_for_each_token_behind_the_first(rig: Rig) -> None:
    """A client that is slow for a moment may find two outputs as one."""
    requests = batch(rig, seed=13, inputs=(16,) * 4, tokens=48)
    out = rig.generate(requests, temperature=0.0, stream=True)
    came_as_asked(requests, out)
    assert 4 * 47 / 2 <= out.gaps_N.size <= 4 * 47
    assert (out.gaps_N >= 0).all()
    assert 0.5 < out.gaps_N.sum() / (out.done_B - out.first_B).sum() < 1.1
    assert (audit.ttft(out) < 0.8 * audit.latency(out)).all()


def test_sends_each_request_when_it_is_due(rig: Rig) -> None:
    requests = arriving(batch(rig, seed=14, inputs=(16,) * 8, tokens=4), 20.0, "poisson", (14,))
    rig.reset_audit()
    out = rig.generate(requests, temperature=1.0)
    came_as_asked(requests, out)
    late = out.sent_B - out.due_B
    assert rig.audit.certificates()["client"].ok is not None
    print(f"sent {np.median(late) * 1e3:.2f} ms late in the median, {late.max() * 1e3:.2f} ms at most")
    np.testing.assert_allclose(out.due_B, requests.due_B, atol=1e-3)
    assert (late > -1e-3).all()
    assert np.median(late) < 0.1
    assert late.max() < 1


def test_runs_no_more_conversations_at_once_than_allowed(rig: Rig) -> None:
    requests = batch(rig, seed=15, inputs=(16,) * 6, tokens=4)
    out = rig.generate(requests, temperature=1.0, concurrency=2)
    came_as_asked(requests, out)
    for sent in out.sent_B:
        assert ((out.sent_B <= sent) & (sent < out.done_B)).sum() <= 2


def test_many_requests_at_once(rig: Rig) -> None:
    many = batch(rig, seed=16, inputs=(16,) * 64, tokens=8)
    came_as_asked(many, rig.generate(many, temperature=1.0))


def test_memory_is_told_in_gib_or_not_at_all(rig: Rig) -> None:
    assert all(0 < gib < 10_000 for gib in rig.engine_memory().values())


def test_closes_leaving_nothing(rig: Rig, engine: str) -> None:
    leader = rig.worker.pid
    before = client.group(leader)
    rig.worker.look()
    segments = rig.worker.segments.left
    certificate = rig.shut_down()
    time.sleep(0.1)
    assert before
    assert certificate.ok, certificate.reason
    assert client.group(leader) == []
    assert any(path.name.startswith("sglang_loads_") for path in segments) == (engine == "sglang")
    assert not any(path.exists() for path in segments)
    peak = rig.series().window(rig.began, time.monotonic()).peak_rss
    assert peak is not None
    assert peak > 10 << 20

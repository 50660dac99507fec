"""The contract of a LoRA adapter's sync: `pytest tests/contract/test_adapter.py -m real --engine vllm` (or sglang).

One launch takes adapters in; a second one holds the same weights with an adapter merged into them. The model needs
weights of its own; the fake holds none.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import CPU, GPU
from harness import envs, machine, models
from harness.adapterlink import AdapterLink
from harness.client import Worker
from harness.errors import LaunchFailed
from harness.metrics import METRICS
from harness.proof import prove_adapter
from harness.rig import Rig, log_path
from harness.rollouts import Rollouts
from harness.scenario import Options
from harness.workload import independent

RANK, PROMPTS, INPUT, OUTPUT = 8, 32, 300, 4
ON_GPU = bool(machine.gpu_names())  # where vLLM's kernels take an adapter in 16 bits alone
OPTIONS = replace(GPU, memory_fraction=0.3, graph_batch=64, max_running=64) if ON_GPU else replace(CPU, max_running=64)
# Of a log-probability: W x + B A x is summed in another order than (W + B A) x. In 16 bits near ties may fall the other
# way, so that half of the prompts must agree, in 32 all.
TOLERANCE, SHARE = {"float32": (1e-3, 1.0), "bfloat16": (0.1, 0.5)}[OPTIONS.dtype]
MERGED = 1  # the step whose adapter is merged too


@dataclass(frozen=True)
class Seen:
    """Outputs without an adapter and with those of steps 1, 2 and 1 again, then of the same prompts once more."""

    base: Rollouts
    steps: list[Rollouts]
    warm: Rollouts
    refusal: str


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        name = metafunc.config.getoption("--engine")
        skipped = [] if name != "fake" else [pytest.mark.skip("the fake holds no weights")]
        metafunc.parametrize("engine", [pytest.param(name, marks=[pytest.mark.real, *skipped])], scope="module")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("OUT", tmp_path_factory.mktemp("adapter")))


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--model"))


@pytest.fixture(scope="module")
def sender(engine: str, model: str, folder: Path) -> Iterator[Worker]:
    """The trainer's stand-in."""
    env, log = envs.find(engine), log_path(folder, f"{engine}-adapter-sender", 0)
    tensors = [[name, list(size)] for name, size in models.tensors_of(model)]
    with Worker(env.engine, env.python, log, {}, env.paths, "harness.worker.adapter") as worker:
        held = worker.call("hold", 600, tensors=tensors, rank=RANK, dtype=OPTIONS.dtype, device=env.device)
        print(held.value)
        yield worker


@pytest.fixture(scope="module")
def seen(engine: str, model: str, folder: Path, sender: Worker) -> Seen:
    with launch(engine, model, folder, replace(OPTIONS, lora_rank=RANK)) as rig:
        base = outputs(rig)
        steps = [adapted(rig, sender, step) for step in (MERGED, 2, MERGED)]
        warm = outputs(rig)
        with pytest.raises(LaunchFailed) as refused:  # last, since an error ends the launch
            rig.worker.call("adapt", 600, path=str(folder / "nothing"))
        return Seen(base, steps, warm, str(refused.value))


def launch(engine: str, model: str, folder: Path, options: Options) -> Rig:
    return Rig(envs.find(engine), model, options, log_path(folder, f"{engine}-adapter", options.lora_rank), 600, print)


def outputs(rig: Rig) -> Rollouts:
    """Greedy ones of a fixed batch, with what the prefix cache holds."""
    prompts = independent((78,), [INPUT] * PROMPTS, [OUTPUT] * PROMPTS, rig.vocabulary)
    return rig.generate(prompts, temperature=0.0, logprobs=True, audited=False)


def adapted(rig: Rig, sender: Worker, step: int) -> Rollouts:
    """Outputs with the adapter of a step."""
    path = str(rig.worker.folder / "adapter")
    sender.call("update", 600, step=step)
    wrote = sender.call("write", 600, folder=path).seconds
    loaded = rig.worker.call("adapt", 600, path=path).seconds
    print(f"{rig.environment.engine}, step {step}: {wrote * 1e3:.1f} ms to write, {loaded * 1e3:.1f} ms to adapt")
    return outputs(rig)


def gaps_B(one: Rollouts, two: Rollouts) -> np.ndarray:
    """Between the log-probabilities of each request's first token; infinite where the tokens differ."""
    gap = np.abs(one.logprobs_BT[:, 0] - two.logprobs_BT[:, 0])
    return np.where(one.tokens_BT[:, 0] == two.tokens_BT[:, 0], gap, np.inf)


def same(one: Rollouts, two: Rollouts) -> bool:
    return bool(np.quantile(gaps_B(one, two), SHARE, method="lower") <= TOLERANCE)


def other(one: Rollouts, two: Rollouts) -> bool:
    return bool(np.quantile(gaps_B(one, two), 1 - SHARE, method="lower") > 3 * TOLERANCE)


def test_outputs_follow_the_adapter_there_and_back(seen: Seen) -> None:
    first, second, again = seen.steps
    assert same(first, again)
    assert all(other(one, two) for one, two in ((seen.base, first), (seen.base, second), (first, second)))


def test_the_prefix_cache_of_another_adapter_gives_nothing(seen: Seen) -> None:
    assert [int(out.cached_B.sum()) for out in (seen.base, *seen.steps)] == [0] * 4
    assert (seen.warm.cached_B > 0).all()  # of the same one it does
    assert same(seen.warm, seen.steps[-1])


def test_an_adapter_that_is_not_there_is_refused(seen: Seen) -> None:
    assert "adapt failed" in seen.refusal


def test_a_link_brings_adapters_in_and_proves_them(
    engine: str, model: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with launch(engine, model, folder, replace(OPTIONS, lora_rank=RANK)) as rig, AdapterLink(rig) as link:
        proof, figures = prove_adapter(link, 1), link.sync()
        print(engine, proof, figures, link.facts)
        assert proof.ok, proof
        assert figures.keys() <= METRICS.keys()
        assert 0 < link.bytes < 4e6
        monkeypatch.setattr(link, "whole", lambda step: AdapterLink.whole(link, 3))
        other = prove_adapter(link, 2)
        assert (other.ok, "not those of weights with the adapter merged in" in other.reason) == (False, True), other
        assert link.end() == []
        assert rig.shut_down().ok


def test_an_adapter_gives_what_weights_with_it_merged_give(
    engine: str, model: str, folder: Path, sender: Worker, seen: Seen
) -> None:
    checkpoint = folder / f"{engine}-merged"
    sender.call("update", 600, step=MERGED)
    sender.call("merge", 600, model=models.find(model).path, folder=str(checkpoint))
    with launch(engine, str(checkpoint), folder, OPTIONS) as rig:
        whole = outputs(rig)
    gaps = gaps_B(whole, seen.steps[0])
    print(
        f"{engine}: log-probabilities of {PROMPTS} first tokens {np.median(gaps):.1e} apart, at most {gaps.max():.1e}"
    )
    assert same(whole, seen.steps[0])
    assert other(whole, seen.base)

"""The contract of weight sync: `pytest tests/contract -m real --engine vllm` (or sglang).

One launch serves all tests. The fake holds no weights.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import CPU, GPU
from harness import envs, machine
from harness.fresh import greedy
from harness.link import Link
from harness.proof import gap, prove, tolerance
from harness.rig import Rig, log_path
from harness.worker.holder import BASE

ON_GPU = bool(machine.gpu_names())
OPTIONS = replace(GPU, memory_fraction=0.4, max_running=64, graph_batch=64) if ON_GPU else replace(CPU, max_running=64)
LONG = [pytest.param(transport, "loader", marks=pytest.mark.long) for transport in ("shm", "gloo")]
WAYS = [("shm", "copies"), ("gloo", "copies"), ("disk", "loader"), *LONG]
GPU_WAYS = [("ipc", how) for how in ("graph", "foreach", "copies", "loader")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        name = metafunc.config.getoption("--engine")
        skipped = [] if name != "fake" else [pytest.mark.skip("the fake holds no weights")]
        metafunc.parametrize("engine", [pytest.param(name, marks=[pytest.mark.real, *skipped])], scope="module")


@pytest.fixture(scope="module")
def rig(engine: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = Path(os.environ.get("OUT", tmp_path_factory.mktemp("weights")))
    model = request.config.getoption("--model")
    with Rig(envs.find(engine), model, OPTIONS, log_path(folder, f"{engine}-weights", 0), 600, print) as rig:
        yield rig


@pytest.mark.parametrize(("transport", "how"), [*WAYS, *(GPU_WAYS if ON_GPU else [])])
def test_a_sync_brings_in_the_weights_of_the_sender(rig: Rig, transport: str, how: str) -> None:
    with Link(rig, transport, how, bucket=4) as link:
        proofs = [prove(link, step) for step in (1, 2)]
        times, parts = link.sync(), link.apart()
    assert [proof.ok for proof in proofs] == [True, True], proofs
    assert times["sync_latency"] >= times["sync_worker"] > 0
    assert all(seconds > 0 for seconds in parts.values())
    assert link.bytes > 1e6
    print(transport, how, times, parts, link.facts, proofs[0].reason)


def test_a_sync_goes_past_the_front_of_an_engine_that_one_process_is(rig: Rig) -> None:
    ways = []
    for straight in (False, True):
        with Link(rig, "shm", "copies", straight=straight) as link:
            proof = prove(link, 5 + straight)
            assert proof.ok, proof
            ways.append(link.facts["straight"])
    assert ways == [False, ON_GPU or rig.environment.engine == "sglang"]  # vLLM on a CPU is two


def test_shares_of_two_senders_make_the_whole(rig: Rig) -> None:
    with Link(rig, "gloo", "copies", senders=2, bucket=4) as link:
        assert sum(link.facts["sender_bytes"]) >= link.bytes > 1.5 * max(link.facts["sender_bytes"])
        proof = prove(link, 8)
    assert proof.ok, proof


@pytest.mark.parametrize("how", ["copies", "loader"])
def test_an_adapter_is_merged_into_what_is_sent(rig: Rig, how: str) -> None:
    with Link(rig, "shm", how, merged_rank=4) as link:
        proof, merged = prove(link, 9), greedy(link.rig)
        seconds = link.update(None)["sync_merge"]
        link.sync()
        bare = greedy(link.rig)
    assert proof.ok, proof
    assert seconds > 0
    assert 0 < link.facts["base_bytes"] < link.bytes
    assert gap(merged, bare) > tolerance(link)
    with Link(rig, "shm", "loader") as link:  # of what an adapter is merged into
        link.update(BASE)
        link.sync()
        assert gap(greedy(link.rig), bare) <= tolerance(link)


def test_what_is_held_on_the_host_is_shared_as_it_is(rig: Rig) -> None:
    with Link(rig, "shm", "copies", on_host=True) as link:
        proof = prove(link, 9)
    assert proof.ok, proof


def test_a_sync_that_moves_nothing_is_no_sync(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with Link(rig, "shm", "loader") as link:
        monkeypatch.setattr(link, "sync", rig.flush)
        assert prove(link, 3).ok is False


def test_a_cache_of_old_weights_is_noticed(rig: Rig) -> None:
    with Link(rig, "shm", "loader") as link:
        link.sync = lambda: (link.send(), link.take())  # type: ignore[method-assign, assignment, return-value]
        proof = prove(link, 4)
    assert proof.ok is False
    assert "old prefix cache" in proof.reason


def test_copies_that_changed_places_are_noticed(rig: Rig) -> None:
    with Link(rig, "shm", "copies") as link:
        if not link.facts["plan"][0]["copies"]:
            pytest.skip("no copies to swap: all goes through the engine's loader")
        link.ask(do="swap")
        proof = prove(link, 5)
    assert proof.ok is False
    assert "not what the engine's loader makes of them" in proof.reason


def test_a_plan_is_replayed_only_where_it_does_what_the_loader_does(rig: Rig) -> None:
    with Link(rig, "shm", "auto") as link:
        if not link.facts["plan"][0]["copies"]:
            assert link.how == "loader"
            return
        assert link.how in ("copies", "graph")
        assert prove(link, 10).ok
        link.ask(do="swap")
        link.choose()
        assert link.how == "loader"
        assert prove(link, 11).ok


def test_outputs_follow_the_weights_back_and_forth(rig: Rig) -> None:
    with Link(rig, "shm", "copies") as link:
        found = []
        for step in (6, 7, 6):
            link.update(step)
            link.sync()
            found.append(greedy(link.rig).logprobs_BT)
    assert np.allclose(found[0], found[2], atol=1e-3)
    assert not np.allclose(found[0], found[1], atol=1e-3)

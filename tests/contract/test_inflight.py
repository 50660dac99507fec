"""The contract of a sync with requests in flight: `pytest tests/contract/test_inflight.py -m real --engine vllm` (or
sglang). Two launches of each engine, all greedy, so that each token says which weights made it."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from benchmarks import CPU, GPU
from harness import envs, inflight, machine
from harness.inflight import Interruption, Mode, Sync
from harness.link import Link
from harness.rig import Rig, log_path
from harness.rollouts import Requests, Rollouts
from harness.workload import independent

ON_GPU = bool(machine.gpu_names())
OPTIONS = replace(GPU, memory_fraction=0.4, max_running=64, graph_batch=64) if ON_GPU else replace(CPU, max_running=64)
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {  # engine: launch: options
    "vllm": {"apart": {"multiprocessing": True}, "in-process": {"multiprocessing": False}},
    "sglang": {"radix": {}, "no-radix": {"prefix_caching": False}},
}
REQUESTS, INPUT, OUTPUT = 6, 300, 64
LIKE = 0.9  # of tokens that must be the same, at least: batches of other shapes round otherwise, least on a CPU
MODES = get_args(Mode)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "launch" in metafunc.fixturenames:
        name = metafunc.config.getoption("--engine")
        skipped = [] if name in VARIANTS else [pytest.mark.skip("the fake's are tests/test_halt.py")]
        launches = [(name, variant) for variant in VARIANTS.get(name, {"": {}})]
        marks = [pytest.mark.real, *skipped]
        more = [marks, [*marks, pytest.mark.long]]  # the first variant, and the others
        found = [pytest.param(v, marks=more[n > 0], id="-".join(v)) for n, v in enumerate(launches)]
        metafunc.parametrize("launch", found, scope="module")


@pytest.fixture(scope="module")
def rig(
    launch: tuple[str, str], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    engine, variant = launch
    folder = Path(os.environ.get("OUT", tmp_path_factory.mktemp("inflight")))
    options = replace(OPTIONS, **VARIANTS[engine][variant])
    model = request.config.getoption("--model")
    with Rig(envs.find(engine), model, options, log_path(folder, f"{engine}-{variant}", 0), 600, print) as rig:
        yield rig


@pytest.fixture(scope="module")
def link(rig: Rig) -> Link:
    return rig.link("ipc", "graph") if ON_GPU else rig.link("shm", "copies")


@pytest.fixture(scope="module")
def requests(rig: Rig) -> Requests:
    return independent((21,), [INPUT] * REQUESTS, [OUTPUT] * REQUESTS, rig.vocabulary)


@pytest.fixture(scope="module")
def pure(rig: Rig, link: Link, requests: Requests) -> dict[int, Rollouts]:
    """What the weights of each step alone make of the requests."""
    found = {}
    for step in (2, 1):
        link.update(step)
        link.sync()
        found[step] = rig.generate(requests, temperature=0.0, audited=False)
    return found


def interrupted(rig: Rig, link: Link, requests: Requests, mode: Mode) -> tuple[Rollouts, Sync]:
    """From the weights of step 1 to those of step 2, when half of the tokens are out."""
    link.update(1)
    link.sync()
    link.update(2)
    rig.reset_audit()
    out, sync = inflight.generate(rig, link, requests, Interruption(mode), temperature=0.0)
    print(mode, sync.facts)
    assert out.output_B.tolist() == requests.output_B.tolist()
    assert sync.in_flight == REQUESTS
    assert [name for name, c in rig.audit.certificates().items() if c.ok is False] == []
    return out, sync


def like(a: Rollouts, b: Rollouts, mask: Any = True) -> float:
    """Share of the tokens that are the same, where `mask` is set."""
    return float((a.tokens_BT == b.tokens_BT)[np.broadcast_to(mask, a.tokens_BT.shape)].mean())


def old(out: Rollouts) -> Any:
    """Where the tokens of the old weights are."""
    return np.arange(out.tokens_BT.shape[1]) < out.old_B[:, None]


def continued(rig: Rig, requests: Requests, out: Rollouts) -> float:
    """Share of the tokens behind the sync that the weights of now give on the prompt and the tokens before it."""
    prompts = requests.prompts(out.tokens_BT)
    given = [np.concatenate([p, row[:n]]) for p, row, n in zip(prompts, out.tokens_BT, out.old_B, strict=True)]
    asked = replace(
        requests, ids_N=np.concatenate(given).astype(np.int32),
        input_B=np.array([len(ids) for ids in given], np.int32), output_B=(OUTPUT - out.old_B).astype(np.int32),
    )  # fmt: skip
    rig.flush()
    fresh = rig.generate(asked, temperature=0.0, audited=False)
    same = [(row[n:] == want[: OUTPUT - n]).mean()
            for row, n, want in zip(out.tokens_BT, out.old_B, fresh.tokens_BT, strict=True)]  # fmt: skip
    return float(np.mean(same))


def test_abort_gives_tokens_of_the_new_weights_alone(
    rig: Rig, link: Link, requests: Requests, pure: dict[int, Rollouts]
) -> None:
    out, sync = interrupted(rig, link, requests, "abort")
    assert sync.aborted == REQUESTS
    assert REQUESTS * OUTPUT / 2 <= sync.lost < REQUESTS * OUTPUT
    assert sync.old == 0
    assert sync.forgotten
    assert like(out, pure[2]) >= LIKE
    assert like(out, pure[1]) < 0.5


def test_drain_gives_tokens_of_the_old_weights_alone(
    rig: Rig, link: Link, requests: Requests, pure: dict[int, Rollouts]
) -> None:
    out, sync = interrupted(rig, link, requests, "drain")
    assert (sync.aborted, sync.lost) == (0, 0)
    assert sync.old == sync.tokens
    assert sync.first is None
    assert sync.forgotten
    assert like(out, pure[1]) >= LIKE
    assert float(out.seconds) >= float(out.done_B.max()) + sync.worker


def test_keep_goes_on_with_the_cache_of_the_old_weights(
    rig: Rig, link: Link, requests: Requests, pure: dict[int, Rollouts]
) -> None:
    out, sync = interrupted(rig, link, requests, "keep")
    assert (sync.aborted, sync.lost) == (0, 0)
    assert 0 < sync.old < sync.tokens
    assert not sync.forgotten
    assert sync.forgotten_at_last
    assert like(out, pure[1], old(out)) >= LIKE
    assert like(out, pure[1], ~old(out)) < 0.5  # other weights made them
    assert continued(rig, requests, out) < 0.5  # on a cache that they did not make


def test_recompute_goes_on_as_the_new_weights_alone_would(
    rig: Rig, link: Link, requests: Requests, pure: dict[int, Rollouts]
) -> None:
    """But where SGLang has a prefix cache: it takes the prompts from there again, which the old weights computed, since
    it refuses to empty the cache as long as requests wait. The certificate says so."""
    out, sync = interrupted(rig, link, requests, "recompute")
    assert (sync.aborted, sync.lost) == (0, 0)
    assert int(out.preemptions) == REQUESTS
    assert like(out, pure[1], old(out)) >= LIKE
    share = continued(rig, requests, out)
    if rig.environment.engine == "sglang" and rig.options.prefix_caching:
        assert share < 0.5
        assert not sync.forgotten
        assert inflight.certificate([sync], caching=True).ok is False
    else:
        assert share >= LIKE
        assert inflight.certificate([sync], rig.options.prefix_caching).ok


@pytest.mark.parametrize("mode", MODES)
def test_the_new_weights_answer_behind_it(rig: Rig, link: Link, requests: Requests, mode: Mode) -> None:
    proof = inflight.prove(rig, link, 10 + MODES.index(mode), requests, Interruption(mode))
    assert proof.ok, proof.reason


def test_weights_that_were_not_sent_are_noticed(
    rig: Rig, link: Link, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ON_GPU:
        pytest.skip("over CUDA IPC nothing is sent: the engine reads the sender's own buffer")
    monkeypatch.setattr(inflight, "offered", lambda link: ({"do": "sync", "how": link.how}, 0.0))
    proof = inflight.prove(rig, link, 20, requests, Interruption("keep"))
    assert proof.ok is False
    assert "apart from those of the same weights brought in while idle" in proof.reason


def test_a_later_turn_shows_whose_cache_it_took(rig: Rig, link: Link) -> None:
    """The second turn begins behind the sync, on a prompt that the old weights computed."""
    first = independent((31,), [INPUT, 20], [16, 16], rig.vocabulary)
    talk = replace(first, conversation_B=np.zeros(2, np.int32))
    found = {}
    for mode in ("drain", "keep"):
        link.update(30)
        link.sync()
        _, found[mode] = inflight.generate(
            rig, link, talk, Interruption(mode, share=0.25), temperature=0.0, audited=False
        )
    assert [sync.late for sync in found.values()] == [1, 1]
    assert found["drain"].late_cached == 0
    if rig.options.prefix_caching:
        assert found["keep"].late_cached >= 128
        assert inflight.certificate([found["keep"]], caching=True).ok is False

"""What a sync in the middle of a call cost, and what a sync that did otherwise than its mode says is found by."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import pytest

from benchmarks.inflight_sync import CASES, InflightSync
from harness import envs, inflight
from harness.errors import LaunchFailed
from harness.inflight import Interruption, Mode, Sync
from harness.link import Link
from harness.metrics import METRICS
from harness.rig import Rig, log_path
from harness.rollouts import Requests
from harness.scenario import Options
from harness.worker.engines import MODES
from harness.workload import independent

GOOD = Sync(
    mode="abort", send=0.1, pause=0.2, worker=0.3, control=0.01, forget=0.02, resume=0.001, first=0.5, gap=1.0,
    in_flight=4, aborted=4, lost=20, late=4, late_cached=0, forgotten=True, forgotten_at_last=True, old=30, tokens=200,
)  # fmt: skip


class Joined:
    """A link to the fake, which takes other weights at every sync and needs no sender."""

    transport, how, together = "shm", "copies", False

    def __init__(self, rig: Rig) -> None:
        self.rig, self.done = rig, list[Any]()

    def send(self) -> float:
        self.done.append("send")
        return 0.25

    def update(self, step: int) -> None:
        self.done.append(step)

    def sync(self) -> None:
        """The same weights once more: the fake has them."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    options = Options(native={"fake": {"seconds_per_token": 0.005, "seconds_per_sync": 0.02}})
    with Rig(envs.find("fake"), "tiny-qwen3", options, log_path(tmp_path, "fake", 0), 60, print) as rig:
        yield rig


def requests(tokens: int = 20) -> Requests:
    return independent((1,), [40] * 4, [tokens] * 4, 1000)


def link(rig: Rig) -> tuple[Link, list[Any]]:
    joined = Joined(rig)
    return cast(Link, joined), joined.done


def test_both_sides_know_the_same_modes() -> None:
    assert set(get_args(Mode)) == set(MODES)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_call_with_a_sync_comes_back_with_what_it_cost(rig: Rig, mode: Mode) -> None:
    joined, done = link(rig)
    out, sync = inflight.generate(rig, joined, requests(), Interruption(mode), temperature=0.0)
    assert done == ["send"]
    assert out.output_B.tolist() == [20] * 4
    assert out.gaps_N.size == 4 * 19
    assert (sync.mode, sync.in_flight, sync.tokens, sync.send) == (mode, 4, 80, 0.25)
    assert sync.gap > sync.worker >= 0.02
    assert sync.old == out.old_B.sum() == {"abort": 0, "drain": 80}.get(mode, sync.old)
    assert (sync.lost > 0) is (mode == "abort")
    assert list(sync.wrong(caching=True)) == []
    assert {name: c.ok for name, c in rig.audit.certificates().items()} == {
        "workload": True, "counts": True, "cache": True, "client": None,
    }  # fmt: skip
    assert sync.figures().keys() <= METRICS.keys()


@pytest.mark.parametrize("mode", get_args(Mode))
def test_the_new_weights_answer_behind_it(rig: Rig, mode: Mode) -> None:
    joined, done = link(rig)
    proof = inflight.prove(rig, joined, 7, requests(), Interruption(mode))
    assert proof.ok, proof.reason
    assert done == [7, "send"]


def test_weights_that_did_not_come_are_noticed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    joined, _ = link(rig)
    plain = rig.generate(requests(), temperature=0.0, audited=False)
    monkeypatch.setattr(inflight, "generate", lambda *_, **__: (plain, GOOD))
    proof = inflight.prove(rig, joined, 7, requests(), Interruption("keep"))
    assert proof.ok is False
    assert "outputs did not change with the weights" in proof.reason
    assert "prompt tokens from the old prefix cache" in proof.reason


def test_other_weights_than_those_sent_are_noticed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    joined, _ = link(rig)

    def sync() -> None:
        rig.flush()
        inflight.generate(rig, joined, requests(), Interruption("drain"), temperature=0.0, audited=False)

    monkeypatch.setattr(joined, "sync", sync)  # the fake's weights are others again
    proof = inflight.prove(rig, joined, 7, requests(), Interruption("keep"))
    assert proof.ok is False
    assert "apart from those of the same weights brought in while idle" in proof.reason


def test_a_sync_that_comes_too_late_fails_the_launch(rig: Rig) -> None:
    with pytest.raises(LaunchFailed, match="before the interruption was due"):
        inflight.generate(rig, link(rig)[0], requests(), Interruption("keep", share=1.5), temperature=0.0)


def test_a_transport_that_needs_the_engine_to_send_is_refused(rig: Rig) -> None:
    joined, done = link(rig)
    joined.together, joined.transport = True, "nccl"
    with pytest.raises(ValueError, match="nccl sends while the engine takes"):
        inflight.generate(rig, joined, requests(), Interruption("keep"), temperature=0.0)
    assert done == []


def test_figures_are_shares_of_the_step() -> None:
    figures = GOOD.figures()
    assert figures["tokens_lost"] == pytest.approx(0.1)
    assert figures["tokens_old"] == pytest.approx(0.15)
    assert (figures["sync_worker"], figures["sync_control"], figures["sync_flush"]) == (0.3, 0.01, 0.02)
    assert (figures["sync_pause"], figures["sync_resume"], figures["sync_gap"]) == (0.2, 0.5, 1.0)
    assert "sync_resume" not in replace(GOOD, first=None).figures()  # nothing came behind it
    assert "sync_flush" not in replace(GOOD, forgotten=False).figures()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_flight": 0}, "no request was in flight"),
        ({"mode": "recompute", "forgotten": False}, "the engine refused to empty its prefix cache"),
        ({"mode": "keep", "forgotten": False, "late_cached": 9}, "9 prompt tokens of later requests"),
        ({"forgotten_at_last": False}, "stayed behind the call"),
    ],
)
def test_a_sync_that_did_otherwise_breaks_its_certificate(changes: dict[str, Any], words: str) -> None:
    wrong = replace(GOOD, **changes)
    found = inflight.certificate([GOOD, wrong, wrong], caching=True)
    assert (found.ok, found.figure) == (False, 2)
    assert words in found.reason
    assert found.reason.count(words) == 1


def test_what_is_kept_may_keep_its_cache_and_nothing_is_wrong_without_one() -> None:
    kept = replace(GOOD, mode="keep", forgotten=False)
    assert inflight.certificate([GOOD, kept], caching=True).ok
    bare = replace(GOOD, mode="recompute", forgotten=False, forgotten_at_last=False)
    assert inflight.certificate([bare], caching=False).ok
    assert not inflight.certificate([bare], caching=True).ok


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case_has_room_for_its_requests(case: InflightSync) -> None:
    asked = case.requests(0, 1000)
    assert (asked.prompt_B + asked.output_B).max() <= case.options.max_model_len
    assert len(asked.output_B) <= case.options.max_running  # all are in flight
    assert case.requests(1, 1000).sha256 != asked.sha256


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_step_of_the_scenario_gives_its_figures_and_facts(rig: Rig, mode: Mode) -> None:
    joined, done = link(rig)
    rig._link = joined
    case = InflightSync(model="tiny-qwen3", mode=mode, prompts=4, input_tokens=40, output_tokens=20)
    figures = case.step(rig, 3)
    assert figures.keys() <= METRICS.keys()
    assert {"step_time", "sync_pause", "sync_gap", "tokens_lost", case.steady} <= figures.keys()
    assert done == [3, "send"]
    (fact,) = rig.facts["syncs"]
    assert (fact["step"], fact["mode"], fact["in_flight"]) == (3, mode, 4)

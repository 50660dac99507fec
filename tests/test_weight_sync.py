"""Cases of weight and adapter sync: which engine runs them, what they need, and what a step and its end do."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks import adapter_sync, weight_sync
from benchmarks.adapter_sync import AdapterSync
from benchmarks.weight_sync import CASES, WeightSync
from harness import fresh, proof
from harness.groups import grouped
from harness.metrics import METRICS
from harness.record import Certificate
from harness.rig import Rig
from harness.rollouts import Answer, Rollouts, gather
from harness.scenario import Options
from harness.worker import transports

OK = Certificate(ok=True, figure=0, reason="well")


def test_every_own_way_has_a_case_at_every_size_on_its_engine_alone() -> None:
    for size in ("0.5B", "7B"):
        own = {case.transport: case for name, case in CASES.items() if name.startswith(f"{size}-own-")}
        assert set(own) == set(transports.OWN_WAYS)
        for way, case in own.items():
            assert case.engines == (way.partition("_")[0],)
            assert [engine for engine in ("vllm", "sglang") if case.runs_on(engine)] == list(case.engines)
            assert case.colocated is (way not in ("vllm_nccl", "sglang_distributed"))
            assert case.gpus == 1 + (not case.colocated)
    assert all(case.runs_on("vllm") and case.runs_on("fake") for n, case in CASES.items() if "-own-" not in n)


def test_vllm_is_started_for_its_weight_transfer() -> None:
    for way in ("ipc", "nccl"):
        native = CASES[f"0.5B-own-vllm-{way}"].options.native
        assert native == {"vllm": {"weight_transfer_config": {"backend": way}}}
    assert CASES["0.5B-own-vllm-reload"].options.native == {}
    mine = Options(native={"vllm": {"block_size": 32}, "sglang": {"page_size": 1}})
    native = WeightSync(model="tiny-qwen3", options=mine, transport="vllm_ipc").options.native
    assert native == {
        "vllm": {"block_size": 32, "weight_transfer_config": {"backend": "ipc"}}, "sglang": {"page_size": 1},
    }  # fmt: skip


def test_parameters_of_ours_are_not_told_of_an_own_way() -> None:
    own, ours = CASES["tiny-own-sglang-disk"].params(), CASES["tiny-shm"].params()
    assert ours.keys() - own.keys() == {"how", "senders", "bucket", "straight"}
    assert own["transport"] == "sglang_disk"


def test_adapters_share_launches_with_nothing_that_has_no_room_for_them() -> None:
    both = {f"a/{name}": case for name, case in adapter_sync.CASES.items()}
    both |= {f"w/{name}": case for name, case in CASES.items()}
    for group in grouped(both):
        assert len({name[0] for name in group.cases}) == 1, group.cases
    with pytest.raises(ValueError, match="needs the option lora_rank"):
        AdapterSync(model="tiny-qwen3")


class Sync:
    """A link that notes what is done with it, and a rig around it."""

    def __init__(self, done: list[Any]) -> None:
        self.done = done

    def update(self, step: int) -> dict[str, float]:
        self.done.append(f"update {step}")
        return {"sync_merge": 0.5}

    def sync(self) -> dict[str, float]:
        self.done.append("sync")
        return {"sync_latency": 1.0}

    def apart(self) -> dict[str, float]:
        return {"sync_load": 0.25}

    def learned(self) -> None:
        self.done.append("learned")


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = SimpleNamespace(facts={}, done=[], asked=[], start_on=None)
    sync = Sync(found.done)

    def link(*arguments: Any, **more: Any) -> Sync:
        found.asked.append((*arguments, more))
        return sync

    found.link, found.adapter_link = link, lambda: sync
    monkeypatch.setattr(weight_sync.speed, "rounds", lambda rig: rig.done.append("rounds") or [9.0])
    monkeypatch.setattr(weight_sync.speed, "kept", lambda rig, before: rig.done.append(before) or OK)
    monkeypatch.setattr(weight_sync, "prove", lambda link, step: link.done.append(f"prove {step}") or OK)
    monkeypatch.setattr(adapter_sync, "prove_adapter", lambda link, step: link.done.append(f"prove {step}") or OK)
    return found


def test_speed_is_taken_before_the_first_sync_and_behind_the_last(rig: Any) -> None:
    case = replace(CASES["tiny-lora-merged"], senders=1)
    for index in (0, 1):
        figures = case.step(cast(Rig, rig), index)
    assert figures == {"sync_merge": 0.5, "sync_latency": 1.0, "sync_load": 0.25}
    assert figures.keys() <= METRICS.keys()
    assert case.finish(cast(Rig, rig)) == {"speed": OK, "proof": OK}
    assert rig.done == [
        "rounds", "update 0", "sync", "update 1", "sync", "learned", [9.0], f"prove {fresh.STEP}",
    ]  # fmt: skip
    how = {"senders": 1, "colocated": True, "on_host": False, "bucket": 64, "merged_rank": 32, "straight": True}
    assert rig.asked[0] == ("shm", "copies", how)


def test_an_adapter_is_updated_then_synced_and_proved_at_the_end(rig: Any) -> None:
    case = adapter_sync.CASES["tiny-lora"]
    assert case.step(cast(Rig, rig), 4) == {"sync_latency": 1.0}
    assert case.finish(cast(Rig, rig)) == {"proof": OK}
    assert rig.done == ["update 4", "sync", f"prove {adapter_sync.PROVING}"]


def outputs(tokens: list[int], logprobs: list[float], cached: int = 0) -> Rollouts:
    answers = [
        Answer([token], [], 9, cached, first=1.0, done=2.0, logprobs=[logprob])
        for token, logprob in zip(tokens, logprobs, strict=True)
    ]
    return gather(answers, 0.0, 2.0, 0)


def test_prompts_agree_up_to_a_share() -> None:
    one = outputs([1, 2, 3, 4], [-1.0, -2.0, -3.0, -4.0])
    other = outputs([1, 2, 3, 9], [-1.0, -2.25, -3.5, -4.0])
    assert [proof.apart(one, other, share) for share in (0.0, 0.5, 0.7, 1.0)] == [0.0, 0.25, 0.5, np.inf]


class Adapted:
    """An adapter's link whose engine does as it is told, but for what a test takes out."""

    def __init__(self, without: str) -> None:
        self.without = without
        self.rig = SimpleNamespace(options=Options(dtype="float32"), answers=self.answers)
        self.sent: int | None = 0
        self.has: tuple[int | None, int | None] = (None, None)  # the base, and the adapter above it
        self.cached = 0

    def update(self, step: int | None) -> None:
        self.sent = step

    def sync(self) -> None:
        self.cached = 5 * (self.without == "flush")
        if self.without != "sync":
            self.has = self.has[0], self.sent

    def whole(self, step: int | None) -> None:
        self.has = (step or 0) + (self.without == "merge"), self.has[1]

    def answers(self) -> Rollouts:
        total = sum(step or 0 for step in self.has)
        return outputs([total % 7] * 4, [-1.0 - total] * 4, self.cached)


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("", "proved by log-probabilities of merged weights"),
        ("sync", "outputs did not change with the adapter"),
        ("merge", "outputs are not those of weights with the adapter merged in"),
        ("flush", "20 prompt tokens from the old prefix cache"),
    ],
)
def test_an_adapters_proof_turns_red(monkeypatch: pytest.MonkeyPatch, without: str, words: str) -> None:
    monkeypatch.setattr(proof, "greedy", lambda rig: rig.answers())
    found = proof.prove_adapter(cast(Any, Adapted(without)), 11)
    assert found.ok is not bool(without)
    assert words in found.reason


def test_a_fresh_engine_starts_at_one_path_that_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLBENCH_HOME", str(tmp_path))
    with fresh._own_folder("tiny") as first:
        (first / "checkpoint").touch()
        with fresh._own_folder("tiny") as second:
            assert second != first
        assert (first / "checkpoint").exists()
    assert not first.exists()
    first.mkdir()
    (first / "checkpoint").touch()  # one was killed
    with fresh._own_folder("tiny") as again:
        assert again == first
        assert not list(again.iterdir())

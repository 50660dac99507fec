"""Which cases share a launch, and in which order."""

from dataclasses import replace

import pytest

from benchmarks import CPU
from benchmarks.single_turn import SingleTurn
from benchmarks.weight_sync import WeightSync
from harness.groups import Group, grouped, launches
from harness.scenario import Options, Scenario, cases

SYNC = WeightSync(model="tiny-qwen3", options=CPU)
TURN = SingleTurn(model="tiny-qwen3", options=CPU)


def names(found: list[Group]) -> list[list[str]]:
    return [list(group.cases) for group in found]


def test_the_weight_syncs_of_one_model_share_each_launch() -> None:
    chosen = {name: case for name, case in cases().items() if name.startswith("weight_sync/")}
    found = names(grouped(chosen))
    assert {frozenset(name.partition("-")[0] for name in group) for group in found} == {
        frozenset({f"weight_sync/{size}"}) for size in ("tiny", "0.5B", "7B", "8B", "30B", "70B")
    }
    assert sorted(name for group in found for name in group) == sorted(chosen)


@pytest.mark.parametrize(
    ("other", "together"),
    [
        (replace(SYNC, how="loader", steps=3), True),
        (replace(SYNC, model="tiny-llama"), False),
        (replace(SYNC, gpus=1), False),
        (replace(SYNC, options=replace(CPU, seed=1)), False),
        (replace(SYNC, options=replace(CPU, native={"vllm": {"block_size": 32}})), False),
        (TURN, False),
    ],
)
def test_cases_share_where_their_engine_is_the_same(other: Scenario, together: bool) -> None:
    assert names(grouped({"a": SYNC, "b": other})) == ([["a", "b"]] if together else [["a"], ["b"]])


def test_the_algorithms_of_a_model_share_each_launch_but_not_with_syncs_of_its_weights() -> None:
    known = cases()
    chosen = {name: known[name] for name in ("rl_step/0.5B-grpo", "rl_step/0.5B-ppo", "rl_step/0.5B-grpo-lora")}
    awake, sync = known["rl_step/0.5B-grpo-awake"], known["weight_sync/0.5B-ipc"]
    assert names(grouped(chosen)) == [list(chosen)]
    assert awake.options == sync.options
    assert names(grouped({"a": awake, "b": sync})) == [["a"], ["b"]]


def test_inference_cases_share_only_when_asked_and_never_with_what_changes_the_engine() -> None:
    chosen = {"a": TURN, "b": SYNC, "c": replace(TURN, prompts=3), "d": replace(TURN, options=Options()), "e": SYNC}
    assert names(grouped(chosen)) == [["a"], ["b", "e"], ["c"], ["d"]]
    assert names(grouped(chosen, share=True)) == [["a", "c"], ["b", "e"], ["d"]]


def test_a_launch_of_an_engine_measures_what_is_its_own_and_what_is_of_all() -> None:
    own = {way: replace(SYNC, transport=way) for way in ("vllm_reload", "sglang_disk")}
    (group,) = grouped({"a": SYNC, **own})
    assert group.keys("vllm") == [("a", "vllm"), ("vllm_reload", "vllm")]
    assert launches(grouped({"b": own["sglang_disk"]}), ["vllm", "sglang"]) == [[("b", "sglang")]]


def test_each_pair_begins_with_another_case() -> None:
    group = Group(dict.fromkeys("abc", SYNC))
    assert ["".join(group.turned(pair)) for pair in (1, 2, 3, 4)] == ["abc", "bca", "cab", "abc"]
    assert Group({"a": SYNC}).turned(7) == ["a"]


def test_a_launch_measures_all_of_its_group() -> None:
    assert launches(grouped({"a": SYNC, "b": SYNC, "c": TURN}), ["x", "y"]) == [
        [("a", "x"), ("b", "x")], [("a", "y"), ("b", "y")], [("c", "x")], [("c", "y")],
    ]  # fmt: skip

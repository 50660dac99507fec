"""Cases by name, what is said of names that are none, and what a step of an inference case does."""

from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.long_context import LongContext
from benchmarks.multi_turn import MultiTurn
from benchmarks.single_turn import SingleTurn
from harness import scenario
from harness.errors import UserError
from harness.inference import Inference
from harness.metrics import METRICS
from harness.rig import Rig
from harness.rollouts import Answer, Requests, Rollouts, gather
from harness.scenario import Options, Scenario
from harness.shapes import SHAPES
from harness.workload import reusable

VOCABULARY = 1000
ALL = scenario.cases()
CASES = {name: case for name, case in ALL.items() if isinstance(case, Inference)}
TINY = {name: case for name, case in CASES.items() if not case.gpus}


def inference(name: str) -> Inference:
    case = CASES[name]
    assert isinstance(case, Inference)
    return case


def requests(case: Inference, step: int = 0) -> Requests:
    return case.requests((case.seed, step), VOCABULARY)


def test_no_name_is_the_main_job() -> None:
    assert list(scenario.select([], gpus=0)) == ["single_turn/tiny-16"]
    assert list(scenario.select([], gpus=1)) == ["single_turn/0.5B-512"]


@pytest.mark.parametrize("name", ["single_turn", "multi_turn", "long_context"])
def test_a_scenario_or_a_pattern_takes_what_the_machine_can_run(name: str) -> None:
    few, all_of_them = (set(scenario.select([name], gpus=g)) for g in (0, 8))
    assert few == set(scenario.select([f"{name}/tiny*"], gpus=1))
    assert few < all_of_them == {full for full in CASES if full.startswith(f"{name}/")}


def test_several_names_and_patterns_add_up() -> None:
    found = scenario.select(["multi_turn/tiny-groups", "*/tiny-16", "multi_turn/tiny-g*"], gpus=0)
    assert set(found) == {"multi_turn/tiny-groups", "single_turn/tiny-16"}
    assert set(scenario.select(["*/*"], gpus=0)) == {name for name, case in ALL.items() if not case.gpus}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("single_turn/tiny-17", r"no case 'single_turn/tiny-17': did you mean single_turn/tiny-16?\?"),
        ("nonsense", r"^no case 'nonsense': known are [^ ]+(, [^ ]+){23} and \d+ more \(`rollbench list` shows all\)$"),
        ("single_turn/7B-16", r"needs 1 GPU\(s\), this machine has 0"),
    ],
)
def test_bad_names_are_one_clear_line(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        scenario.select([name], gpus=0)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case_has_room_for_its_requests(case: Scenario) -> None:
    asked = requests(case)
    assert asked.ids_N.size == asked.input_B.sum()
    assert (asked.prompt_B + asked.output_B).max() <= case.options.max_model_len


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_every_case_has_a_model_that_exists_and_a_metric_that_settles(case: Scenario) -> None:
    assert case.model in SHAPES
    assert case.steady in METRICS


@pytest.mark.parametrize("case", TINY.values(), ids=TINY)
def test_every_step_asks_for_other_words_and_the_same_work(case: Scenario) -> None:
    assert isinstance(case, Inference)
    first, again, second = requests(case, 0), requests(case, 0), requests(case, 1)
    assert first.sha256 == again.sha256 != second.sha256
    assert not set(first.new[0]) >= set(second.new[0])
    for name in ("input_B", "output_B", "conversation_B"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_a_case_that_only_switches_an_option_asks_for_the_same_words() -> None:
    """So that `compare` may say what the option does."""
    for name, case in CASES.items():
        twin, cut, _ = name.partition("-no-prefix-caching")
        if cut:
            assert requests(inference(name)).sha256 == requests(inference(twin)).sha256
            assert replace(case, options=CASES[twin].options) == CASES[twin]
            assert not case.options.prefix_caching


def test_prompts_of_one_turn_share_nothing_but_within_groups() -> None:
    case = SingleTurn(model="tiny-qwen3", prompts=3, input_tokens=10, output_tokens=4)
    assert not reusable(requests(case)).any()
    assert reusable(requests(replace(case, samples=2))).tolist() == [0, 9] * 3


def test_a_rate_is_of_prompts_and_groups_come_with_all_their_samples() -> None:
    case = SingleTurn(model="tiny-qwen3", prompts=4, samples=5, rate=2.0, arrivals="fixed")
    due = requests(case).due_B
    assert len(due) == 20
    assert due.max() == pytest.approx(4 / 2.0)


def test_mixed_lengths_are_the_same_in_every_step() -> None:
    case = LongContext(model="tiny-qwen3", prompts=50, input_tokens=9, output_tokens=80, mixed=True)
    first, second = (requests(case, step) for step in (0, 1))
    assert first.output_B.tolist() == second.output_B.tolist()
    assert first.output_B.max() <= 80
    assert np.median(first.output_B) == pytest.approx(10, rel=0.5)
    assert requests(replace(case, mixed=False)).output_B.tolist() == [80] * 50


def test_native_flags_reach_their_engine_alone() -> None:
    options = Options(native={"vllm": {"block_size": 32}})
    assert options.of("vllm")["native"] == {"block_size": 32}
    assert options.of("sglang")["native"] == {}


@dataclass
class Bench:
    """A rig that remembers what a step does, and answers everything within 2 s."""

    vocabulary: int = VOCABULARY
    done: list[str] = field(default_factory=list)
    asked: list[tuple[Requests, dict[str, Any]]] = field(default_factory=list)

    def flush(self) -> float:
        self.done.append("flush")
        return 0.0

    def generate(self, requests: Requests, **how: Any) -> Rollouts:
        self.done.append("generate")
        self.asked.append((requests, how))
        answers = [
            Answer([1] * n, [], prompt, 0, first=1.0, done=2.0)
            for n, prompt in zip(requests.output_B.tolist(), requests.prompt_B.tolist(), strict=True)
        ]
        return gather(answers, 0.0, 2.0, 0)


def stepped(case: Inference, index: int = 0) -> tuple[Bench, dict[str, float]]:
    bench = Bench()
    return bench, case.step(cast(Rig, bench), index)


def test_a_step_empties_the_cache_then_asks_once() -> None:
    case = SingleTurn(model="tiny-qwen3", temperature=0.7, concurrency=3, stream=True, seed=5)
    bench, found = stepped(case, 4)
    assert bench.done == ["flush", "generate"]
    ((asked, how),) = bench.asked
    assert asked.sha256 == case.requests((5, 4), VOCABULARY).sha256
    assert how == {"temperature": 0.7, "concurrency": 3, "stream": True, "cache_floor": 0.0}
    assert found["output_throughput"] == 16 * 64 / 2
    assert found.keys() <= METRICS.keys()


def test_throughput_a_gpu_is_given_where_there_are_gpus() -> None:
    case = SingleTurn(model="tiny-qwen3")
    assert "output_per_gpu" not in stepped(case)[1]
    assert stepped(replace(case, gpus=4))[1]["output_per_gpu"] == 16 * 64 / 2 / 4


def test_nothing_is_asked_of_a_cache_that_is_off() -> None:
    case = MultiTurn(model="tiny-qwen3")
    assert stepped(case)[0].asked[0][1]["cache_floor"] == 0.9
    off = replace(case, options=Options(prefix_caching=False))
    assert stepped(off)[0].asked[0][1]["cache_floor"] == 0.0


def test_steps_settle_by_their_time_unless_a_schedule_sets_it() -> None:
    case = SingleTurn(model="tiny-qwen3")
    assert case.steady == "step_time"
    assert replace(case, rate=2.0).steady == "latency"
    assert MultiTurn(model="tiny-qwen3").steady == "step_time"


def test_a_step_is_done_again_where_it_is_the_same_work() -> None:
    case = MultiTurn(model="tiny-qwen3")
    assert [case.again, replace(case, flush=False).again, ALL["rl_step/tiny-grpo"].again] == [True, False, False]

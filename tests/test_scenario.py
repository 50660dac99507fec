"""Cases by name, and what is said of names that are none."""

import pytest

from harness import models, scenario
from harness.errors import UserError


def test_no_name_is_the_main_job() -> None:
    assert list(scenario.select([], gpus=0)) == ["single_turn/tiny-16"]
    assert list(scenario.select([], gpus=1)) == ["single_turn/0.5B-512"]


def test_a_scenario_or_a_pattern_takes_what_the_machine_can_run() -> None:
    few, all_of_them = (set(scenario.select(["single_turn"], gpus=g)) for g in (0, 1))
    assert few == set(scenario.select(["single_turn/tiny*"], gpus=1))
    assert few < all_of_them == set(scenario.cases())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("single_turn/tiny-17", r"no case 'single_turn/tiny-17': did you mean single_turn/tiny-16?\?"),
        ("nonsense", "no case 'nonsense'"),
        ("single_turn/7B-16", r"needs 1 GPU\(s\), this machine has 0"),
    ],
)
def test_bad_names_are_one_clear_line(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        scenario.select([name], gpus=0)


def test_every_case_has_a_model_that_exists() -> None:
    for case in scenario.cases().values():
        assert case.model in models.SHAPES


def test_native_flags_reach_their_engine_alone() -> None:
    options = scenario.Options(native={"vllm": {"block_size": 32}})
    assert options.of("vllm")["native"] == {"block_size": 32}
    assert options.of("sglang")["native"] == {}

"""Trace files: what was recorded is what is replayed, and what is no trace is one clear line."""

from pathlib import Path

import numpy as np
import pytest

from harness import trace
from harness.errors import UserError
from harness.scenario import cases
from harness.workload import conversations


def test_a_recorded_workload_is_replayed_as_it_was(tmp_path: Path) -> None:
    asked = conversations((1,), 3, 2, 20, 5, 4, 0.3, 500)
    trace.save(asked, tmp_path / "t.jsonl")
    again = trace.requests(trace.load(tmp_path / "t.jsonl"), (9,), 500)
    assert again.sha256 == asked.sha256


def test_prompts_given_as_a_number_are_drawn_by_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"due": 1.5, "turns": [{"prompt": 7, "output": 2}, {"prompt": [1, 2], "output": 3, "pause": 0.5}]}\n'
    )
    first, second = (trace.requests(trace.load(path), (seed,), 100) for seed in (1, 2))
    assert first.input_B.tolist() == [7, 2]
    assert first.due_B.tolist() == [1.5, 0.5]
    assert first.prompt_B.tolist() == [7, 11]
    assert not np.array_equal(first.ids_N[:7], second.ids_N[:7])
    assert first.ids_N[7:].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1: no conversation"),
        ('{"turns": []}', "line 1: no conversation (turns: "),
        ('{"turns": [{"prompt": 5, "output": 0}]}', "turns.0.output"),
        ('{"turns": [{"prompt": [-1], "output": 1}]}', "turns.0.prompt"),
        ('{"due": -1, "turns": [{"prompt": 5, "output": 1}]}', "due"),
        ('{"turns": [{"prompt": 5, "output": 1, "colour": "red"}]}', "turns.0.colour"),
        ("", "holds no conversation"),
    ],
)
def test_what_is_no_trace_is_refused_by_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError) as error:
        trace.load(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_token_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"turns": [{"prompt": [5, 900], "output": 1}]}\n')
    with pytest.raises(UserError, match="token id 900"):
        trace.requests(trace.load(path), (0,), 900)


def test_the_trace_in_the_repository_is_one() -> None:
    assert cases()["replay/tiny-agent"].params()["trace"].startswith("agent.jsonl ")

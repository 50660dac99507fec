"""Conversations about a task: what the engine is asked, what counts as the policy's, and who replies."""

import numpy as np
import numpy.typing as npt
import pytest

from harness.rollouts import Rollouts, padded
from harness.worker.talks import Talks
from trainers.tasks import Calculator, Copying, Example
from trainers.tasks.codecs import Folded, suited
from trainers.tasks.task import Alphabet

CODEC = Alphabet()


def said(*texts: str, limit: int) -> Rollouts:
    """What an engine gives that goes on behind an end, up to the limit."""
    tokens_BT = padded([(CODEC.encode(text) + [5] * limit)[:limit] for text in texts])
    logprobs_BT = -np.arange(1, limit + 1, dtype=np.float32) * np.ones((len(texts), 1), np.float32)
    none: npt.NDArray[np.float64] = np.zeros(len(texts))
    counts = np.zeros(len(texts), np.int32)
    return Rollouts(
        tokens_BT, logprobs_BT, counts, counts, none, none, none, none, none, none, np.array(0), np.array(1.0),
        np.array(""),
    )  # fmt: skip


def test_each_example_is_asked_as_often_as_samples_are_wanted() -> None:
    talks = Talks(Copying(), CODEC, [Example("ab>", "ab"), Example("cba>", "cba")], 2, 6, 0, 0)
    requests = talks.requests()
    assert [CODEC.decode(ids) for ids in requests.new] == ["ab>", "ab>", "cba>", "cba>"]
    assert requests.output_B.tolist() == [6] * 4
    assert [talk.group for talk in talks.talks] == [0, 0, 1, 1]


def test_prompts_are_filled_up_at_their_front_and_samples_alike() -> None:
    talks = Talks(Copying(), CODEC, [Example("ab>", "ab")], 2, 6, 10, 3)
    one, other = (CODEC.decode(ids) for ids in talks.requests().new)
    assert one == other
    assert len(one) == 10
    assert one.endswith("ab>")
    again = Talks(Copying(), CODEC, [Example("ab>", "ab")], 2, 6, 10, 4)
    assert CODEC.decode(again.requests().new[0]) != one


def test_what_is_behind_an_end_is_no_token_of_the_policy() -> None:
    talks = Talks(Copying(), CODEC, [Example("ab>", "ab")] * 2, 1, 6, 0, 0)
    assert talks.take(said("ab$", "ba", limit=6)) is False
    ended, cut = talks.talks
    assert (ended.ids, ended.logprobs, ended.ended) == (CODEC.encode("ab$"), [-1, -2, -3], True)
    assert (len(cut.ids), cut.ended) == (6, False)
    assert talks.rewards() == [1.0, 0.0]


def test_a_tool_replies_and_its_tokens_are_not_the_policys() -> None:
    task = Calculator()
    example = task.examples(1, 0)[0]
    talks = Talks(task, CODEC, [example], 1, 12, 0, 0)
    assert talks.take(said("<2*(3+4)>$", limit=12)) is True
    (talk,) = talks.talks
    assert CODEC.decode([i for i, own in zip(talk.ids, talk.own, strict=True) if not own]) == "14?"
    assert talks.requests().new == [talk.prompt + talk.ids]
    assert talks.take(said(f"={example.answer}$", limit=12)) is False
    assert talks.rewards() == [1.0]
    assert len(talk.ids) == len(talk.own) == len(talk.logprobs)


def test_a_codec_suits_the_vocabulary() -> None:
    assert type(suited("m", 32, words=False)) is Alphabet
    folded = suited("m", 1000, words=False)
    assert isinstance(folded, Folded)
    assert folded.decode([i + 32 * 7 for i in CODEC.encode("ab")]) == "ab"
    assert folded.decode([i + 32 for i in [*CODEC.encode("ab"), CODEC.end]] + CODEC.encode("c")) == "ab"
    assert folded.end == CODEC.end  # alone
    with pytest.raises(ValueError, match="tiny has 20 tokens, the tasks 32 symbols"):
        suited("/models/tiny", 20, words=False)

"""Conversations about a task's examples: what to ask the engine next, and what became of all of it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.rollouts import Requests, Rollouts, lengths


@dataclass
class Talk:
    """One sample of one example. `ids`: all behind the prompt; `own`: whether the policy said it, else another."""

    example: Any  # trainers.tasks.Example
    prompt: list[int]
    group: int
    outputs: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False
    over: bool = False

    def say(self, ids: Sequence[int], logprobs: Sequence[float], own: bool) -> None:
        self.ids += ids
        self.own += [own] * len(ids)
        self.logprobs += logprobs


class Talks:
    """`samples` of each of some examples of a `task`, in tokens of a `codec`; the policy has `limit` tokens a turn.
    Prompts are filled up at their front to `input_tokens` by other symbols, drawn with `seed`."""

    def __init__(
        self, task: Any, codec: Any, examples: Sequence[Any], samples: int, limit: int, input_tokens: int, seed: int,
        held_out: bool = False,
    ) -> None:  # fmt: skip
        self.task, self.codec, self.prompts, self.samples, self.limit = task, codec, len(examples), samples, limit
        self.input_tokens, self.held_out = input_tokens, held_out
        source, self.talks = random.Random(seed), list[Talk]()
        for group, example in enumerate(examples):
            asked = codec.encode(example.prompt)
            filled = source.choices(codec.encode(" abcdefghij"), k=max(input_tokens - len(asked), 0)) + asked
            self.talks += [Talk(example, filled, group) for _ in range(samples)]

    def requests(self) -> Requests:
        """The next turn of all that go on, each a conversation of its own with its whole prompt; all due at once."""
        prompts = [talk.prompt + talk.ids for talk in self.open]
        count = len(prompts)
        return Requests(
            ids_N=np.array([token for prompt in prompts for token in prompt], np.int32),
            input_B=np.array([len(prompt) for prompt in prompts], np.int32),
            output_B=np.full(count, self.limit, np.int32),
            conversation_B=np.arange(count, dtype=np.int32),
            due_B=np.zeros(count),
        )

    @property
    def open(self) -> list[Talk]:
        return [talk for talk in self.talks if not talk.over]

    def take(self, out: Rollouts) -> bool:
        """What the engine said to `requests`; whether any talk goes on. An engine that was told to ignore ends says
        more than the policy meant: what is behind one is no token of its."""
        rows = zip(self.open, out.tokens_BT, out.logprobs_BT, lengths(out.tokens_BT), strict=True)
        for talk, tokens, logprobs, count in rows:
            said = tokens[:count].tolist()
            upto = said.index(self.codec.end) + 1 if self.codec.end in said else 0
            talk.ended, size = bool(upto), upto or count
            talk.say(said[:size], logprobs[:size].tolist(), own=True)
            talk.outputs.append(self.codec.decode(said[:size]))
            reply = self.task.reply(talk.example, talk.outputs)
            talk.over = reply is None
            if reply is not None:
                told = self.codec.encode(reply)
                talk.say(told, [0.0] * len(told), own=False)
        return bool(self.open)

    def rewards(self) -> list[float]:
        return [self.task.reward(talk.example, talk.outputs) for talk in self.talks]

    def batch(self) -> Any:
        """All of it for a trainer (`trainers.batch.Batch`)."""
        from trainers.batch import build

        return build(
            [talk.prompt for talk in self.talks],
            [talk.ids for talk in self.talks],
            [talk.logprobs for talk in self.talks],
            self.rewards(),
            [talk.group for talk in self.talks],
            ended=[talk.ended for talk in self.talks],
            limit=self.limit * max(len(talk.outputs) for talk in self.talks),
            own=[talk.own for talk in self.talks],
        )

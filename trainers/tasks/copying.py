"""Say what you were told: the smallest thing that reinforcement learning can teach."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from trainers.tasks.task import Example, OneTurn, drawn


@dataclass(frozen=True)
class Copying(OneTurn):
    """`bdca>` is to be answered `bdca`. With the end an output takes longest + 1 tokens; 8 leave room behind it."""

    letters: str = "abcdefgh"
    shortest: int = 2
    longest: int = 5

    def examples(self, count: int, seed: int, *, held_out: bool = False) -> list[Example]:
        return drawn(self._draw, count, seed, held_out)

    def _draw(self, source: random.Random) -> Example:
        word = "".join(source.choices(self.letters, k=source.randint(self.shortest, self.longest)))
        return Example(f"{word}>", word)

    def reward(self, example: Example, outputs: Sequence[str]) -> float:
        """The share of symbols that are right and in their place; one too many or too few is a wrong one."""
        said = outputs[-1]
        right = sum(a == b for a, b in zip(example.answer, said, strict=False))
        return right / max(len(example.answer), len(said))

"""Sums, differences and products of two whole numbers."""

import operator
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from trainers.tasks.task import Example, OneTurn, drawn

NUMBER = re.compile(r" *(-?[0-9]+) *")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@dataclass(frozen=True)
class Arithmetic(OneTurn):
    """`12+7=` is to be answered `19`. digits: of each number, at most. signs: some of OPERATORS."""

    digits: int = 2
    signs: str = "+-*"

    def examples(self, count: int, seed: int, *, held_out: bool = False) -> list[Example]:
        return drawn(self._draw, count, seed, held_out)

    def _draw(self, source: random.Random) -> Example:
        a, b = source.randrange(10**self.digits), source.randrange(10**self.digits)
        sign = source.choice(self.signs)
        return Example(f"{a}{sign}{b}=", str(OPERATORS[sign](a, b)))

    def reward(self, example: Example, outputs: Sequence[str]) -> float:
        """1 for the number, else 0; spaces around it and zeros in front change nothing."""
        said = NUMBER.fullmatch(outputs[-1])
        return float(said is not None and Decimal(said[1]) == Decimal(example.answer))

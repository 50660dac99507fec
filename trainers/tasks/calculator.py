"""A conversation of several turns with a tool: the policy may ask a calculator before it answers."""

import ast
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from trainers.tasks.arithmetic import OPERATORS
from trainers.tasks.task import Example, drawn

CALL = re.compile(r"<([0-9+\-*() ]{1,64})>")
SIGNS: dict[type[ast.AST], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}


@dataclass(frozen=True)
class Calculator:
    """`31*(7+46)-5?` is to be answered `=1638`. An output of the form `<31*(7+46)>` asks the calculator, which says
    `1643?`, or `?` alone to what it cannot compute. turns: outputs that the policy has, the answer among them."""

    digits: int = 2
    turns: int = 4

    def examples(self, count: int, seed: int, *, held_out: bool = False) -> list[Example]:
        return drawn(self._draw, count, seed, held_out)

    def _draw(self, source: random.Random) -> Example:
        a, b, c, d = (source.randrange(10**self.digits) for _ in range(4))
        inner, outer, last = (source.choice([*OPERATORS]) for _ in range(3))
        text = f"{a}{outer}({b}{inner}{c}){last}{d}"
        return Example(f"{text}?", str(compute(text)))

    def reply(self, example: Example, outputs: Sequence[str]) -> str | None:
        called = CALL.fullmatch(outputs[-1])
        if not called or len(outputs) >= self.turns:
            return None
        value = compute(called[1])
        return "?" if value is None else f"{value}?"

    def reward(self, example: Example, outputs: Sequence[str]) -> float:
        """1 where the last output is the right answer, else 0."""
        return float(outputs[-1] == f"={example.answer}")


def compute(text: str) -> int | None:
    """The value of whole numbers with + - * and parentheses; None for anything else."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int(value)) if type(value) is int:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in SIGNS:
            return int(OPERATORS[SIGNS[type(sign)]](_value(left), _value(right)))
    raise ValueError(f"{type(node).__name__} is nothing to compute")

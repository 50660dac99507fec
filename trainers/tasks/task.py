"""What a task is, and the symbols of tiny models."""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

HELD_OUT = 8  # one prompt in so many is never trained on


@dataclass(frozen=True)
class Example:
    """A prompt and the answer that is right."""

    prompt: str
    answer: str


class Task(Protocol):
    def examples(self, count: int, seed: int, *, held_out: bool = False) -> list[Example]:
        """Examples drawn with this seed. No prompt is both held out and not."""

    def reply(self, example: Example, outputs: Sequence[str]) -> str | None:
        """What the other side says to the policy's outputs so far, one for each turn; None where all is said."""

    def reward(self, example: Example, outputs: Sequence[str]) -> float:
        """Between 0 and 1, for the outputs of all turns (without the symbol that ended them)."""


class OneTurn:
    """Of tasks that are one question and one answer."""

    def reply(self, example: Example, outputs: Sequence[str]) -> str | None:
        return None


def is_held_out(prompt: str) -> bool:
    return hashlib.sha256(prompt.encode()).digest()[0] % HELD_OUT == 0


def drawn(draw: Callable[[random.Random], Example], count: int, seed: int, held_out: bool) -> list[Example]:
    """`count` examples that `draw` makes, with repetition. Raises ValueError when it makes none on this side."""
    source, found = random.Random(seed), list[Example]()
    for _ in range(100 * HELD_OUT * count):
        if len(found) == count:
            break
        example = draw(source)
        found += [example] if is_held_out(example.prompt) == held_out else []
    if len(found) < count:
        raise ValueError(
            f"{len(found)} of {count} examples with held_out={held_out}: give the task more different prompts"
        )
    return found


class Codec(Protocol):
    """Text to token ids and back: `Alphabet`, or a few lines around a model's tokenizer. `end`: the token that ends an
    output."""

    end: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first end."""


class Alphabet:
    """One token for each symbol, 32 in all: the vocabulary of a tiny model. `end` ends an output."""

    SYMBOLS = "_$0123456789+-*()=?<> abcdefghij"
    pad, end = 0, 1

    def encode(self, text: str) -> list[int]:
        if strange := set(text) - set(self.SYMBOLS):
            raise ValueError(f"{text!r} holds {min(strange)!r}, which is none of the {len(self.SYMBOLS)} symbols")
        return [self.SYMBOLS.index(symbol) for symbol in text]

    def decode(self, ids: Iterable[int]) -> str:
        """Up to the first end; a token that is no symbol reads as the padding does."""
        said = itertools.takewhile(lambda token: token != self.end, ids)
        return "".join(self.SYMBOLS[i if 0 <= i < len(self.SYMBOLS) else self.pad] for i in said)

"""Text to token ids and back, by what a model's vocabulary is."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainers.tasks.task import Alphabet, Codec


class Folded(Alphabet):
    """The symbols for a vocabulary of any size, which says each of them by many tokens: for models with random weights,
    whose rewards then differ as those of a model that knows little. One token alone ends an output, so that there is as
    much to learn from as was asked for; its text ends with the first token that says the end."""

    def decode(self, ids: Iterable[int]) -> str:
        return super().decode(i % len(self.SYMBOLS) for i in ids)


class Tokenizer:
    """A model's own, of its folder or its name at a hub."""

    def __init__(self, path: str) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.end = self.tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return found

    def decode(self, ids: Iterable[int]) -> str:
        return str(self.tokenizer.decode(list(itertools.takewhile(lambda token: token != self.end, ids))))


def suited(path: str, vocabulary: int, words: bool) -> Codec:
    """words: whether a task's texts are more than the symbols of `Alphabet`, so that the model's own is needed."""
    if words:
        return Tokenizer(path)
    if vocabulary < len(Alphabet.SYMBOLS):
        raise ValueError(f"{Path(path).name} has {vocabulary} tokens, the tasks {len(Alphabet.SYMBOLS)} symbols")
    return Alphabet() if vocabulary == len(Alphabet.SYMBOLS) else Folded()

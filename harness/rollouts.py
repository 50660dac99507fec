"""Prompts that go to an engine and what it generated: numpy arrays that travel as `.npz` in shared memory.

Shape letters: B requests, T the longest output, L the longest prompt. Both sides import this; it needs numpy only.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

PAD = -1  # fills a row of token ids behind its end


class Arrays:
    """A dataclass of numpy arrays that can be saved and loaded as one `.npz`, never with pickle."""

    def save(self, path: Path) -> None:
        arrays: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        with path.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        with np.load(path, allow_pickle=False) as data:
            return cls(**{name: data[name] for name in data.files})


def padded(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    """Rows of token ids as one array, each row filled with PAD behind its end."""
    out = np.full((len(rows), max(map(len, rows), default=0)), PAD, dtype=np.int32)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return out


@dataclass(frozen=True)
class Prompts(Arrays):
    """Token ids of each request, int32 (B, L), and the number of tokens each must generate, int32 (B,)."""

    ids_BL: npt.NDArray[np.int32]
    output_B: npt.NDArray[np.int32]

    @property
    def lists(self) -> list[list[int]]:
        return [row[row != PAD].tolist() for row in self.ids_BL]

    @property
    def lengths_B(self) -> npt.NDArray[np.int64]:
        lengths: npt.NDArray[np.int64] = (self.ids_BL != PAD).sum(axis=1)
        return lengths

    @property
    def sha256(self) -> str:
        return token_hash(self.lists)


def token_hash(rows: Sequence[Sequence[int]]) -> str:
    """SHA-256 of lists of token ids: each list's length, then its ids, as little-endian int32."""
    digest = hashlib.sha256()
    for ids in rows:
        digest.update(np.asarray([len(ids), *ids], dtype="<i4").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Rollouts(Arrays):
    """What an engine generated for a batch of requests, in the order of the prompts.

    tokens_BT: token ids, filled with PAD. logprobs_BT: of the tokens chosen, NaN where there is none, and of width 0
    when they were not asked for. prompt_B, cached_B: prompt tokens as the engine counted them, and those of them that
    it took from its prefix cache. first_B, done_B: seconds from the start of the call to a request's first and last
    token, on the worker's clock. seconds: the whole call, scalar. prompts_sha256: of the ids the engine was given.
    """

    tokens_BT: npt.NDArray[np.int32]
    logprobs_BT: npt.NDArray[np.float32]
    prompt_B: npt.NDArray[np.int32]
    cached_B: npt.NDArray[np.int32]
    first_B: npt.NDArray[np.float64]
    done_B: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]
    prompts_sha256: npt.NDArray[np.str_]

    @property
    def output_B(self) -> npt.NDArray[np.int64]:
        """Tokens that each request generated."""
        lengths: npt.NDArray[np.int64] = (self.tokens_BT != PAD).sum(axis=1)
        return lengths


@dataclass(frozen=True)
class Finished:
    """One finished request as an engine's adapter reports it; `gather` makes Rollouts of many."""

    tokens: list[int]
    prompt: int
    cached: int
    first: float
    done: float
    logprobs: Sequence[float] = ()


def gather(finished: Sequence[Finished], prompts: Sequence[Sequence[int]], seconds: float) -> Rollouts:
    """Rollouts of finished requests in the order of the prompts that the engine was given."""
    logprobs_BT = np.full((len(finished), max((len(f.logprobs) for f in finished), default=0)), np.nan, np.float32)
    for row, f in zip(logprobs_BT, finished, strict=True):
        row[: len(f.logprobs)] = f.logprobs
    return Rollouts(
        tokens_BT=padded([f.tokens for f in finished]),
        logprobs_BT=logprobs_BT,
        prompt_B=np.array([f.prompt for f in finished], np.int32),
        cached_B=np.array([f.cached for f in finished], np.int32),
        first_B=np.array([f.first for f in finished]),
        done_B=np.array([f.done for f in finished]),
        seconds=np.array(seconds),
        prompts_sha256=np.array(token_hash(prompts)),
    )

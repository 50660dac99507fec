"""Prompts that go to an engine and what it generated: numpy arrays that travel through a file in shared memory.

Shape letters: B requests, T the longest output, L the longest prompt. Both sides import this; it needs numpy only.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

PAD = -1  # fills a row of token ids behind its end


Layout = list[list[Any]]  # of each array: name, dtype, shape


class Arrays:
    """A dataclass of numpy arrays that travels as a file of their bytes, with its layout in the message that names it.

    docs/adr/0002 says why not `.npz`.
    """

    def save(self, path: Path) -> Layout:
        """Write the arrays one behind the other; the layout that `load` needs."""
        arrays = {f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        with path.open("wb") as file:
            for array in arrays.values():
                file.write(array.tobytes())
        return [[name, array.dtype.str, list(np.shape(getattr(self, name)))] for name, array in arrays.items()]

    @classmethod
    def load(cls, path: Path, layout: Layout) -> Self:
        data, offset, found = path.read_bytes(), 0, {}
        for name, dtype, shape in layout:
            count = math.prod(shape)
            found[name] = np.frombuffer(data, dtype, count, offset).reshape(shape)
            offset += found[name].nbytes
        return cls(**found)


def padded(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    """Rows of token ids as one array, each row filled with PAD behind its end."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    out = np.full((len(rows), int(lengths.max(initial=0))), PAD, np.int32)
    out[np.arange(out.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int32)
    return out


def lengths(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Token ids in each row of a padded array."""
    count: npt.NDArray[np.int64] = (ids != PAD).sum(axis=1)
    return count


def token_hash(ids: npt.NDArray[np.int32]) -> str:
    """SHA-256 of a padded array of token ids: its shape, then its values, as little-endian int32."""
    digest = hashlib.sha256(np.asarray(ids.shape, "<i4").tobytes())
    digest.update(ids.astype("<i4", copy=False).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Prompts(Arrays):
    """Token ids of each request, int32 (B, L), and the number of tokens each must generate, int32 (B,)."""

    ids_BL: npt.NDArray[np.int32]
    output_B: npt.NDArray[np.int32]

    @property
    def lists(self) -> list[list[int]]:
        return [row[:n] for row, n in zip(self.ids_BL.tolist(), lengths(self.ids_BL).tolist(), strict=True)]


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
        return lengths(self.tokens_BT)


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
    widest = max((len(f.logprobs) for f in finished), default=0)
    logprobs_BT = np.full((len(finished), widest), np.nan, np.float32)
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
        prompts_sha256=np.array(token_hash(padded(prompts))),
    )

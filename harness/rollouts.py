"""Requests that go to an engine and what it generated: numpy arrays that travel through a file in shared memory.

Shape letters: B requests, T the longest output, N all of something. Both sides import this; it needs numpy only.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
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


@dataclass(frozen=True)
class Requests(Arrays):
    """B requests in conversations; those of one conversation stand in the order of their turns.

    A request's prompt is all that its conversation holds already (prompts and answers) followed by its own new ids.
    ids_N: the new token ids of all requests, one behind the other, int32. input_B: how many of them are each request's.
    output_B: tokens that each must generate. conversation_B: any number, equal within a conversation. due_B: seconds:
    for a conversation's first request, when it is to be sent, from the start of the call; for a later one, the pause
    (a tool call, a user) behind the answer before it.
    """

    ids_N: npt.NDArray[np.int32]
    input_B: npt.NDArray[np.int32]
    output_B: npt.NDArray[np.int32]
    conversation_B: npt.NDArray[np.int32]
    due_B: npt.NDArray[np.float64]

    @property
    def new(self) -> list[list[int]]:
        """The new ids of each request."""
        ids, ends = self.ids_N.tolist(), np.cumsum(self.input_B).tolist()
        return [ids[end - n : end] for end, n in zip(ends, self.input_B.tolist(), strict=True)]

    @property
    def conversations(self) -> list[list[int]]:
        """The requests of each conversation, by their places."""
        found: dict[int, list[int]] = {}
        for place, conversation in enumerate(self.conversation_B.tolist()):
            found.setdefault(conversation, []).append(place)
        return list(found.values())

    @property
    def prompt_B(self) -> npt.NDArray[np.int64]:
        """Tokens of each whole prompt, when every request generates as many tokens as it must."""
        count = np.zeros(len(self.input_B), np.int64)
        for places in self.conversations:
            grown = np.cumsum(self.input_B[places] + self.output_B[places])
            count[places] = grown - self.output_B[places]
        return count

    @property
    def scheduled(self) -> bool:
        """Whether anything is sent by a schedule, not all at once."""
        return bool(self.due_B.any())

    @property
    def sha256(self) -> str:
        """Of all that is asked: ids, lengths, conversations, schedule."""
        arrays = (
            self.ids_N.astype("<i4"), self.input_B.astype("<i4"), self.output_B.astype("<i4"),
            self.conversation_B.astype("<i4"), self.due_B.astype("<f8"),
        )  # fmt: skip
        return hashlib.sha256(b"".join(a.size.to_bytes(8, "little") + a.tobytes() for a in arrays)).hexdigest()

    def prompts(self, tokens_BT: npt.NDArray[np.int32]) -> list[npt.NDArray[np.int32]]:
        """The whole prompt of each request, given the answers."""
        ends, answers = np.cumsum(self.input_B), lengths(tokens_BT)
        found: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)] * len(ends)
        for places in self.conversations:
            held = np.empty(0, np.int32)
            for place in places:
                found[place] = np.concatenate([held, self.ids_N[ends[place] - self.input_B[place] : ends[place]]])
                held = np.concatenate([found[place], tokens_BT[place, : answers[place]]])
        return found


def ids_hash(prompts: Iterable[npt.ArrayLike]) -> str:
    """SHA-256 of lists of token ids: of each its length, then its values, as little-endian int32."""
    digest = hashlib.sha256()
    for prompt in prompts:
        ids = np.asarray(prompt, "<i4")
        digest.update(ids.size.to_bytes(8, "little") + ids.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Rollouts(Arrays):
    """What an engine generated for B requests, in their order.

    tokens_BT: token ids, filled with PAD. logprobs_BT: of the tokens chosen, NaN where there is none, of width 0 when
    they were not asked for. prompt_B, cached_B: prompt tokens as the engine counted them, and of them those taken
    from its prefix cache. queued_B: seconds in the engine's queue, NaN where it does not tell. due_B, sent_B, first_B,
    done_B: seconds from the start of the call to when a request should be sent, was sent, gave its first and its last
    token, on the worker's clock. gaps_N: seconds between outputs of one request, of all requests, when they were
    streamed. preemptions: times that a running request lost its place, in the whole call. seconds: of the whole call.
    prompts_sha256: of the ids that the engine says it was given. old_B: of each output, the tokens at its start that
    were out before new weights came in, where a sync interrupted the call; else 0.
    """

    tokens_BT: npt.NDArray[np.int32]
    logprobs_BT: npt.NDArray[np.float32]
    prompt_B: npt.NDArray[np.int32]
    cached_B: npt.NDArray[np.int32]
    queued_B: npt.NDArray[np.float64]
    due_B: npt.NDArray[np.float64]
    sent_B: npt.NDArray[np.float64]
    first_B: npt.NDArray[np.float64]
    done_B: npt.NDArray[np.float64]
    gaps_N: npt.NDArray[np.float64]
    preemptions: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]
    prompts_sha256: npt.NDArray[np.str_]
    old_B: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def output_B(self) -> npt.NDArray[np.int64]:
        """Tokens that each request generated."""
        return lengths(self.tokens_BT)


@dataclass
class Answer:
    """One finished request as an engine's adapter reports it; times are `time.perf_counter()` of the worker.

    `stamps` are the times of all its outputs, when they were streamed. `aborted`: the engine let go of it unfinished.
    `old`: tokens at its start that were out before new weights came in.
    """

    tokens: list[int]
    prompt_ids: Sequence[int]
    prompt: int
    cached: int
    first: float
    done: float
    queued: float = math.nan
    logprobs: Sequence[float] = ()
    stamps: Sequence[float] = ()
    due: float = 0.0
    sent: float = 0.0
    aborted: bool = False
    old: int = 0


def gather(answers: Sequence[Answer], start: float, seconds: float, preemptions: int) -> Rollouts:
    """Rollouts of the answers to a call that began at `start` on the worker's clock."""
    widest = max((len(a.logprobs) for a in answers), default=0)
    logprobs_BT = np.full((len(answers), widest), np.nan, np.float32)
    for row, answer in zip(logprobs_BT, answers, strict=True):
        row[: len(answer.logprobs)] = answer.logprobs

    def times(name: str) -> npt.NDArray[np.float64]:
        return np.array([getattr(a, name) for a in answers], np.float64) - start

    return Rollouts(
        tokens_BT=padded([a.tokens for a in answers]),
        logprobs_BT=logprobs_BT,
        prompt_B=np.array([a.prompt for a in answers], np.int32),
        cached_B=np.array([a.cached for a in answers], np.int32),
        queued_B=np.array([a.queued for a in answers], np.float64),
        due_B=times("due"),
        sent_B=times("sent"),
        first_B=times("first"),
        done_B=times("done"),
        gaps_N=np.concatenate([np.empty(0), *(np.diff(a.stamps) for a in answers if len(a.stamps) > 1)]),
        preemptions=np.array(preemptions),
        seconds=np.array(seconds),
        prompts_sha256=np.array(ids_hash(a.prompt_ids for a in answers)),
        old_B=np.array([a.old for a in answers], np.int32),
    )

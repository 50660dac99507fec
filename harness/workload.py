"""Workloads from seeds, as token ids: the same to every engine."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from harness.rollouts import Requests

NEAR = 256  # conversations that begin alike: of more, the first and the last so many are looked at

Seed = Sequence[int]
Counts = npt.NDArray[np.int64]


def random_ids(seed: Seed, prompts: int, tokens: int, vocab: int) -> npt.NDArray[np.int32]:
    """Uniformly random token ids (prompts, tokens). Rows share no prefix: each begins with a token of its own, as far
    as the vocabulary goes, since an engine may cache a single token."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, vocab, (prompts, tokens), dtype=np.int32)
    first = min(prompts, vocab)
    ids[:first, 0] = random.choice(vocab, first, replace=False)
    return ids


def independent(seed: Seed, input_B: npt.ArrayLike, output_B: npt.ArrayLike, vocab: int) -> Requests:
    """Requests of one turn that share nothing, all due at once. Lengths are those of each request."""
    inputs, outputs = np.asarray(input_B, np.int32), np.asarray(output_B, np.int32)
    ids = random_ids(seed, len(inputs), int(inputs.max()), vocab)
    kept = ids[np.arange(ids.shape[1]) < inputs[:, None]]
    count = len(inputs)
    return Requests(kept, inputs, outputs, np.arange(count, dtype=np.int32), np.zeros(count))


def conversations(
    seed: Seed, count: int, turns: int, system: int, input_tokens: int, output_tokens: int, pause: float, vocab: int
) -> Requests:
    """`count` conversations of `turns` turns, each turn with new tokens of its own, behind one system prompt.

    `pause`: mean seconds between an answer and the next turn, exponentially distributed (0: none), by the first number
    of the seed alone: every step has the same schedule.
    """
    random = np.random.default_rng([seed[0], 1])
    shared = random_ids(seed, 1, system, vocab)[0] if system else np.empty(0, np.int32)
    own = random_ids([*seed, 2], count * turns, input_tokens, vocab)
    pieces = [np.concatenate([shared, ids]) if place % turns == 0 else ids for place, ids in enumerate(own)]
    due = random.exponential(pause, count * turns) if pause else np.zeros(count * turns)
    due[::turns] = 0.0
    return Requests(
        ids_N=np.concatenate(pieces),
        input_B=np.array([len(p) for p in pieces], np.int32),
        output_B=np.full(count * turns, output_tokens, np.int32),
        conversation_B=np.repeat(np.arange(count, dtype=np.int32), turns),
        due_B=due,
    )  # fmt: skip


def grouped(requests: Requests, samples: int) -> Requests:
    """Each conversation `samples` times, next to each other, as GRPO draws a group for each prompt."""
    if samples == 1:
        return requests
    new, order, numbers = requests.new, list[int](), list[int]()
    for places in requests.conversations:
        for _ in range(samples):
            numbers += [(numbers[-1] + 1) if numbers else 0] * len(places)
            order += places
    return Requests(
        ids_N=np.array([i for place in order for i in new[place]], np.int32),
        input_B=requests.input_B[order],
        output_B=requests.output_B[order],
        conversation_B=np.array(numbers, np.int32),
        due_B=requests.due_B[order],
    )


def arriving(requests: Requests, rate: float, arrivals: str, seed: Seed) -> Requests:
    """Conversations that begin one after another, `rate` a second: at even times (`fixed`) or as a Poisson process, by
    the first number of the seed alone: every step has the same schedule."""
    first = [places[0] for places in requests.conversations]
    gaps = np.full(len(first), 1 / rate)
    if arrivals == "poisson":
        gaps = np.random.default_rng([seed[0], 3]).exponential(1 / rate, len(first))
    due = requests.due_B.copy()
    due[first] = np.cumsum(gaps)
    return replace(requests, due_B=due)


def heavy_tail(seed: Seed, count: int, median: int, longest: int, sigma: float = 1.0) -> Counts:
    """Lengths from a log-normal distribution, cut at `longest`: most are short, a few make the others wait."""
    drawn = np.random.default_rng([*seed, 4]).lognormal(np.log(median), sigma, count)
    return np.clip(drawn.round().astype(np.int64), 1, longest)


def reusable(requests: Requests) -> Counts:
    """Prompt tokens of each request that a perfect prefix cache, empty before, could give (B,).

    For a first turn the most that it shares with a conversation before it. For a later turn all that its conversation
    holds (SGLang computes even an answer's last token), and where another began with the very same prompt its whole
    prompt, since their answers may be the same.
    """
    found, prompt_B, ends = np.zeros(len(requests.input_B), np.int64), requests.prompt_B, np.cumsum(requests.input_B)
    seen: dict[int, list[npt.NDArray[np.int32]]] = {}
    for places in requests.conversations:
        ids = requests.ids_N[ends[places[0]] - requests.input_B[places[0]] : ends[places[0]]]
        alike = seen.setdefault(int(ids[0]), [])
        shared = [_shared(ids, other) for other in (alike[:NEAR] + alike[NEAR:][-NEAR:])]
        found[places[0]] = min(max(shared, default=0), len(ids) - 1)
        alike.append(ids)
        grouped = len(ids) in shared
        for before, place in itertools.pairwise(places):
            found[place] = prompt_B[place] - 1 if grouped else prompt_B[before] + requests.output_B[before]
    return found


def _shared(a: npt.NDArray[np.int32], b: npt.NDArray[np.int32]) -> int:
    """Tokens with which both begin."""
    count = min(len(a), len(b))
    differ = np.flatnonzero(a[:count] != b[:count])
    return int(differ[0]) if len(differ) else count

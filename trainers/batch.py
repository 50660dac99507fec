"""A batch of rollouts: tensors whose names end in their dimensions.

Every tensor that ends in BT is aligned with `tokens_BT`: its value at t belongs to the token at t. A log-probability
at t is that of token t given those before it, a value is that of the state before token t. The policy's own tokens are
those where `mask_BT` is True; prompts, tool replies and padding are not. What stands off the mask never reaches a
result.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

Ids = Sequence[int]


@dataclass(frozen=True, eq=False)
class Rows:
    """A dataclass of tensors whose first dimension is B; what is no tensor is the same for every row."""

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(value) for name, value in found.items() if isinstance(value, Tensor)})

    def rows(self, index: Tensor | slice) -> Self:
        """These rows alone: a micro-batch, a rank's share. `index`: places, or a bool for every row."""
        return self._each(lambda value: value[index])

    def to(self, device: torch.device | str) -> Self:
        return self._each(lambda value: value.to(device))


@dataclass(frozen=True, eq=False)
class Batch(Rows):
    """What the rollout engine and the reward gave for B sequences, padded on the right.

    tokens_BT: prompt and output, int64, 0 behind the end. length_B: tokens of each sequence. mask_BT: the policy's own
    tokens, bool. sampled_BT: their log-probabilities in the rollout engine, 0 off the mask; None when they were not
    asked for. reward_B: of the whole sequence. group_B: samples of one prompt share a number. ended_B: False where the
    output was cut off. limit: own tokens that a sequence may have (the generation's budget).
    """

    tokens_BT: Tensor
    length_B: Tensor
    mask_BT: Tensor
    sampled_BT: Tensor | None
    reward_B: Tensor
    group_B: Tensor
    ended_B: Tensor
    limit: int

    @property
    def own_B(self) -> Tensor:
        """Own tokens of each sequence."""
        return self.mask_BT.sum(-1)

    @property
    def valid_BT(self) -> Tensor:
        """True up to each sequence's end: the attention mask."""
        return torch.arange(self.tokens_BT.shape[1], device=self.tokens_BT.device) < self.length_B[:, None]

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return int(numbered(self.group_B).max()) + 1 if len(self.group_B) else 0


def build(
    prompts: Sequence[Ids],
    outputs: Sequence[Ids],
    logprobs: Sequence[Sequence[float]] | None,
    rewards: Sequence[float],
    groups: Sequence[int],
    *,
    ended: Sequence[bool],
    limit: int,
    own: Sequence[Sequence[bool]] | None = None,
) -> Batch:
    """A batch of B rollouts, each argument with a row for every one.

    outputs: token ids behind the prompt; in a conversation also what others said between (tool replies), where `own` is
    False. logprobs: of the outputs, any value where not own. groups: numbers from 0 on, each in use. ended: whether the
    output came to its own end before the limit. Raises ValueError with the row at fault.
    """
    own = own if own is not None else [[True] * len(output) for output in outputs]
    _check_counts(prompts, outputs=outputs, logprobs=logprobs, rewards=rewards, groups=groups, ended=ended, own=own)
    _check_groups(groups)
    for row, (prompt, output, mine) in enumerate(zip(prompts, outputs, own, strict=True)):
        _check_row(row, prompt, output, mine, limit)
    tokens_BT = _padded([[*p, *o] for p, o in zip(prompts, outputs, strict=True)], torch.int64)
    mask_BT = _padded([[False] * len(p) + list(m) for p, m in zip(prompts, own, strict=True)], torch.bool)
    return Batch(
        tokens_BT=tokens_BT,
        length_B=torch.tensor([len(p) + len(o) for p, o in zip(prompts, outputs, strict=True)]),
        mask_BT=mask_BT,
        sampled_BT=None if logprobs is None else _sampled(prompts, outputs, logprobs, mask_BT),
        reward_B=_rewards(rewards),
        group_B=torch.tensor(list(groups)),
        ended_B=torch.tensor(list(ended)),
        limit=limit,
    )


def numbered(group_B: Tensor) -> Tensor:
    """The same groups with numbers from 0 on, none left out, in the order of the old ones."""
    numbers: Tensor = torch.unique(group_B, return_inverse=True)[1]
    return numbers


def group_ids(count: int, size: int) -> list[int]:
    """Group numbers of `count` samples that stand one group after the other, `size` of each prompt."""
    if size < 1 or count % size:
        raise ValueError(f"{count} samples do not make groups of {size}: ask for a multiple of the group size")
    return [place // size for place in range(count)]


def turns(
    outputs: Sequence[Ids], replies: Sequence[Ids], logprobs: Sequence[Sequence[float]]
) -> tuple[list[int], list[bool], list[float]]:
    """A conversation behind its first prompt as one row of `build`: ids, which are the policy's own, log-probabilities.

    outputs: of each turn; replies: what was said between two outputs, one less than these. Ids are taken as the engine
    generated them, never encoded anew from text.
    """
    if len(replies) != len(outputs) - 1 or len(logprobs) != len(outputs):
        raise ValueError(
            f"{len(outputs)} outputs with {len(replies)} replies between them and {len(logprobs)} logprobs"
        )
    ids, own, found = [*outputs[0]], [True] * len(outputs[0]), [*logprobs[0]]
    for reply, output, logprob in zip(replies, outputs[1:], logprobs[1:], strict=True):
        ids += [*reply, *output]
        own += [False] * len(reply) + [True] * len(output)
        found += [0.0] * len(reply) + [*logprob]
    return ids, own, found


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of several, with groups numbered anew so that those of different batches stay apart."""
    limits = {batch.limit for batch in batches}
    if len(limits) != 1:
        raise ValueError(f"batches with limits {sorted(limits)} do not join: generate them all with one limit")
    width, offset, groups = max(batch.tokens_BT.shape[1] for batch in batches), 0, []
    for batch in batches:
        groups.append(numbered(batch.group_B) + offset)
        offset += batch.groups
    sampled = [batch.sampled_BT for batch in batches if batch.sampled_BT is not None]
    if len(sampled) not in (0, len(batches)):
        raise ValueError("some of the batches hold the engine's log-probabilities and some do not: ask for them always")
    return Batch(
        tokens_BT=torch.cat([_widened(batch.tokens_BT, width) for batch in batches]),
        length_B=torch.cat([batch.length_B for batch in batches]),
        mask_BT=torch.cat([_widened(batch.mask_BT, width) for batch in batches]),
        sampled_BT=torch.cat([_widened(one, width) for one in sampled]) if sampled else None,
        reward_B=torch.cat([batch.reward_B for batch in batches]),
        group_B=torch.cat(groups),
        ended_B=torch.cat([batch.ended_B for batch in batches]),
        limit=limits.pop(),
    )


@dataclass(frozen=True, eq=False)
class Packed:
    """The sequences of a batch one behind the other, as one row without padding.

    tokens_1N, mask_1N: as in the batch. position_1N: each token's place in its own sequence. ends_B: where each ends.
    The own tokens stand in the order in which `mask_BT` has them.
    """

    tokens_1N: Tensor
    mask_1N: Tensor
    position_1N: Tensor
    ends_B: Tensor


def packed(batch: Batch) -> Packed:
    valid_BT = batch.valid_BT
    place_T = torch.arange(batch.tokens_BT.shape[1], device=valid_BT.device)
    return Packed(
        tokens_1N=batch.tokens_BT[valid_BT][None],
        mask_1N=batch.mask_BT[valid_BT][None],
        position_1N=place_T.expand_as(valid_BT)[valid_BT][None],
        ends_B=batch.length_B.cumsum(0),
    )


def _padded(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *itertools.repeat(0, width - len(row))] for row in rows], dtype=dtype)


def _widened(value_BT: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(value_BT, (0, width - value_BT.shape[1]))


def _rewards(rewards: Sequence[float]) -> Tensor:
    reward_B = torch.tensor(list(rewards), dtype=torch.float32)
    if not reward_B.isfinite().all():
        row = int((~reward_B.isfinite()).nonzero()[0])
        raise ValueError(f"the reward of row {row} is {rewards[row]}: give every sample a finite one, or leave it out")
    return reward_B


def _sampled(
    prompts: Sequence[Ids], outputs: Sequence[Ids], logprobs: Sequence[Sequence[float]], mask_BT: Tensor
) -> Tensor:
    for row, (output, found) in enumerate(zip(outputs, logprobs, strict=True)):
        if len(output) != len(found):
            raise ValueError(f"row {row} has {len(output)} output tokens and {len(found)} log-probabilities")
    rows = [[0.0] * len(p) + list(found) for p, found in zip(prompts, logprobs, strict=True)]
    sampled_BT = _padded(rows, torch.float32).masked_fill(~mask_BT, 0)
    if not sampled_BT.isfinite().all():
        row, place = (~sampled_BT.isfinite()).nonzero()[0].tolist()
        place -= len(prompts[row])
        raise ValueError(
            f"the engine gave no log-probability for output token {place} of row {row} ({logprobs[row][place]}): "
            "ask it for those of all tokens, or pass logprobs=None"
        )
    return sampled_BT


def _check_counts(prompts: Sequence[Ids], **others: Sequence[object] | None) -> None:
    if not prompts:
        raise ValueError("a batch without a sample: nothing was generated, or every group was dropped")
    for name, rows in others.items():
        if rows is not None and len(rows) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts and {len(rows)} {name}: give one for each prompt")


def _check_groups(groups: Sequence[int]) -> None:
    if gaps := set(range(max(groups) + 1)) ^ set(groups):
        raise ValueError(
            f"group {min(gaps)} is empty or has no number of its own: number groups from 0 on without a gap"
        )


def _check_row(row: int, prompt: Ids, output: Ids, own: Sequence[bool], limit: int) -> None:
    if not len(prompt):
        raise ValueError(f"the prompt of row {row} is empty: begin it with at least one token")
    if len(own) != len(output):
        raise ValueError(f"row {row} has {len(output)} output tokens and {len(own)} marks of whose they are")
    count = sum(own)
    if not count:
        raise ValueError(f"row {row} has no token of the policy's: ask for at least one, or leave the row out")
    if count > limit:
        raise ValueError(
            f"row {row} has {count} own tokens, over its limit of {limit}: give the limit it was made with"
        )

"""The copies that an engine's own loader would make, noted without making them.

A dispatch mode watches the loader over tensors of a memory that is never touched. Each `copy_` from there into a
parameter is a move: from a place in the flat space to a slice of a parameter. What the loader does otherwise (a cast,
a re-layout) cannot be replayed; those tensors go through the loader at every sync. After a prototype that reached the
floor on an H100.
"""

import mmap
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.worker.copies import Pair
from harness.worker.flat import Segment, Slot, extent, views
from harness.worker.offers import Unfit

Tensor = Any  # torch.Tensor, which the light environment does not know
NORESERVE = 0x4000  # of mmap(2) on Linux: the whole size of a large model, of which no page is ever touched
NEVER = "nothing is written into it"
FILLS = {torch.ops.aten.fill_.Scalar: 1, torch.ops.aten.zero_.default: None}  # operator: its value's place


@dataclass(frozen=True)
class Move:
    """One copy: into a slice of a parameter, from the elements (`shape`, `stride`) behind byte `begin` of the flat
    space."""

    into: Tensor
    begin: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    name: str

    @property
    def step(self) -> int:
        """Bytes from one row to the next."""
        return int(self.stride[0] * self.into.element_size())

    @property
    def row(self) -> int:
        """Bytes from a row's first element to behind its last."""
        inner = sum((size - 1) * stride for size, stride in zip(self.shape[1:], self.stride[1:], strict=True))
        return int((inner + 1) * self.into.element_size())


@dataclass
class Moves:
    """What a model's loader does with a checkpoint. `rest`: tensors that only the loader itself can bring; `why`: what
    is wrong with parameters that the moves do not write exactly once."""

    moves: list[Move] = field(default_factory=list)
    fills: list[tuple[Tensor, float]] = field(default_factory=list)
    rest: dict[str, list[Tensor]] = field(default_factory=dict)  # by name: where the loader writes them
    why: dict[str, str] = field(default_factory=dict)


class Recorder(TorchDispatchMode):  # type: ignore[misc]
    """Notes copies out of a memory into parameters, fills of parameters and whatever else is written into them, and
    lets none happen. `current` is the tensor that the loader was given last."""

    def __init__(self, source: Tensor, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self.begin = source.data_ptr()
        self.storage = source.untyped_storage().data_ptr()
        self.parameters = {parameter.untyped_storage().data_ptr() for parameter in parameters.values()}
        self.found, self.current = Moves(), ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = self._written(func, args)
        if written is None:
            return func(*args, **(kwargs or {}))
        into = written.detach()
        if func in FILLS:
            place = FILLS[func]
            self.found.fills.append((into, 0 if place is None else args[place]))
        elif func is torch.ops.aten.copy_.default and self._sent(args[1]) and same(into, args[1]):
            begin = args[1].data_ptr() - self.begin
            self.found.moves.append(Move(into, begin, tuple(args[1].shape), args[1].stride(), self.current))
        else:
            self.found.rest.setdefault(self.current, []).append(into)
        return written

    def _written(self, func: Any, args: Any) -> Tensor | None:
        """The argument that an operator writes into, where it is of a parameter."""
        for spec, arg in zip(func._schema.arguments, args, strict=False):
            writes = spec.alias_info is not None and spec.alias_info.is_write and isinstance(arg, torch.Tensor)
            if writes and arg.untyped_storage().data_ptr() in self.parameters:
                return arg
        return None

    def _sent(self, tensor: Tensor) -> bool:
        return bool(tensor.untyped_storage().data_ptr() == self.storage)


def same(into: Tensor, out_of: Tensor) -> bool:
    """Whether bytes are copied as they are."""
    return bool(into.dtype == out_of.dtype and into.shape == out_of.shape and into.dim())


def record(
    parameters: dict[str, Tensor],
    load: Callable[[Iterator[tuple[str, Tensor]]], Any],
    slots: Sequence[Slot],
    dtype: Any,
) -> Moves:
    """Watch the loader once. A parameter that the moves do not write exactly once sends all through the loader. Raises
    Unfit where the loader refuses a tensor, or none goes into some parameter."""
    memory = mmap.mmap(-1, extent(slots), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
    source = torch.frombuffer(memory, dtype=torch.uint8)
    recorder = Recorder(source, parameters)

    def given() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in views(source, slots, dtype):
            recorder.current = name
            yield name, tensor

    try:
        with torch.no_grad(), recorder:
            load(given())
    except Exception as error:
        raise Unfit(f"the engine's loader refuses {recorder.current}: {type(error).__name__}: {error}") from error
    found = recorder.found
    written = [move.into for move in found.moves] + [into for into, _ in found.fills]
    written += [into for parts in found.rest.values() for into in parts]
    found.why = uncovered(parameters, written)
    if kept := [name for name, why in found.why.items() if why == NEVER]:
        taken = {move.name for move in found.moves} | found.rest.keys()
        ignored = [slot.name for slot in slots if slot.name not in taken]
        also = f"; the engine's loader ignores {ignored[0]}, one of {len(ignored)} tensors" if ignored else ""
        raise Unfit(f"{kept[0]} would keep its old weights, one of {len(kept)} parameters of the engine that nothing "
                    f"offered is loaded into{also}")  # fmt: skip
    found.moves = [move for move in found.moves if move.name not in found.rest]
    if found.why or not found.moves:
        found.moves, found.fills, found.rest = [], [], {slot.name: [] for slot in slots}
    return found


def uncovered(parameters: dict[str, Tensor], written: Sequence[Tensor]) -> dict[str, str]:
    """Parameters of which some element is not written exactly once, and how many; NEVER where none is written."""
    found = {}
    for name, parameter in parameters.items():
        begin = parameter.untyped_storage().data_ptr()
        count = torch.zeros(
            parameter.untyped_storage().nbytes() // parameter.element_size(), dtype=torch.uint8, device=parameter.device
        )
        here = [tensor for tensor in written if tensor.untyped_storage().data_ptr() == begin]
        for tensor in here:
            if tensor.dtype == parameter.dtype:
                count.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).add_(1)
        mine = count.as_strided(parameter.shape, parameter.stride(), parameter.storage_offset())
        if wrong := int((mine != 1).sum()):
            found[name] = f"{wrong} of {mine.numel()} elements not written exactly once" if here else NEVER
    return found


def bound(moves: Sequence[Move], segments: Sequence[Segment]) -> list[Pair]:
    """The copies that these segments of the flat space allow, whole rows of each move."""
    ordered = sorted(segments, key=lambda segment: segment.begin)
    starts, found = [segment.begin for segment in ordered], list[Pair]()
    for move in moves:
        last = move.begin + (move.shape[0] - 1) * move.step + move.row
        for segment in ordered[max(0, bisect_right(starts, move.begin) - 1) :]:
            if segment.begin >= last:
                break
            if pair := _cut(move, segment):
                found.append(pair)
    return found


def _cut(move: Move, segment: Segment) -> Pair | None:
    """The rows of a move that a segment holds."""
    count, step = move.shape[0], move.step or 1
    first = max(0, -((move.begin - segment.begin) // step))
    last = min(count, (segment.end - move.row - move.begin) // step + 1)
    if first >= last:
        return None
    at = move.begin + first * move.step - segment.begin
    size = (last - first - 1) * move.step + move.row
    out_of = segment.tensor[at : at + size].view(move.into.dtype)
    shape = (last - first, *move.shape[1:])
    return Pair(move.into[first:last], out_of.as_strided(shape, move.stride, out_of.storage_offset()), move.name)

"""Copies that an engine's own loader makes from one flat buffer, recorded once, then replayed.

A dispatch mode watches the loader over views of the buffer: each `copy_` out of it into a parameter is a pair.
Every byte of every parameter must be written exactly once. What the loader does otherwise (a cast, a re-layout) cannot
be replayed; those tensors go through the loader at every sync. After a prototype that reached the floor on an H100.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.worker.flat import Slot, views

LARGE = 1 << 20  # bytes from which a copy of its own is faster than its share of a batched kernel
STREAMS = 2  # on which large copies run side by side

Tensor = Any  # torch.Tensor, which the light environment does not know


@dataclass
class Pair:
    """One copy: a slice of a parameter from a slice of the buffer."""

    into: Tensor
    out_of: Tensor
    name: str


class Recorder(TorchDispatchMode):  # type: ignore[misc]
    """Notes copies out of one storage; `current` is the tensor that the loader was given last."""

    def __init__(self, storage: int) -> None:
        super().__init__()
        self.storage, self.pairs, self.filled, self.current = storage, list[Pair](), list[Tensor](), ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.copy_.default and args[1].untyped_storage().data_ptr() == self.storage:
            self.pairs.append(Pair(args[0].detach(), args[1].detach(), self.current))
        elif func in (torch.ops.aten.fill_.Scalar, torch.ops.aten.zero_.default):
            self.filled.append(args[0].detach())  # padding, which stays as it is
        return out


def same_copy(pair: Pair) -> bool:
    """Whether bytes are copied as they are."""
    return bool(pair.into.dtype == pair.out_of.dtype and pair.into.shape == pair.out_of.shape)


def merged(pairs: Sequence[Pair]) -> list[Pair]:
    """The same copies with neighbours, in the buffer as in the parameter, as one (q, k and v become one copy)."""
    flat = [pair for pair in pairs if pair.into.is_contiguous() and pair.out_of.is_contiguous()]
    found = [pair for pair in pairs if not (pair.into.is_contiguous() and pair.out_of.is_contiguous())]
    flat.sort(key=lambda pair: pair.out_of.data_ptr())
    runs: list[list[Pair]] = []
    for pair in flat:
        if runs and _follows(runs[-1][-1], pair):
            runs[-1].append(pair)
        else:
            runs.append([pair])
    return found + [_joined(run) for run in runs]


def _follows(first: Pair, second: Pair) -> bool:
    one, two = (
        getattr(second, side).data_ptr() - getattr(first, side).data_ptr() - getattr(first, side).nbytes
        for side in ("into", "out_of")
    )
    same = second.into.untyped_storage().data_ptr() == first.into.untyped_storage().data_ptr()
    return bool(one == two == 0 and same)


def _joined(run: Sequence[Pair]) -> Pair:
    """One copy for all, in words of 8 bytes where they fit: a batched kernel moves so many elements at a time."""
    size = sum(pair.into.nbytes for pair in run)
    starts = [tensor.data_ptr() - tensor.untyped_storage().data_ptr() for tensor in (run[0].into, run[0].out_of)]
    wide = not any(n % 8 for n in (size, *starts))
    into, out_of = (
        _words(tensor, size, torch.int64 if wide else torch.uint8) for tensor in (run[0].into, run[0].out_of)
    )
    return Pair(into, out_of, run[0].name)


def _words(start: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """So many bytes from where a tensor begins, as words of another dtype."""
    storage = start.untyped_storage()
    offset = start.data_ptr() - storage.data_ptr()
    return torch.empty(0, dtype=dtype, device=start.device).set_(
        storage, offset // dtype.itemsize, (count // dtype.itemsize,)
    )


def uncovered(parameters: dict[str, Tensor], pairs: Sequence[Pair], filled: Sequence[Tensor]) -> dict[str, str]:
    """Parameters of which some element is not written exactly once, and how many."""
    found = {}
    for name, parameter in parameters.items():
        begin = parameter.untyped_storage().data_ptr()
        count = torch.zeros(
            parameter.untyped_storage().nbytes() // parameter.element_size(), dtype=torch.uint8, device=parameter.device
        )
        for tensor in (*(pair.into for pair in pairs if same_copy(pair)), *filled):
            if tensor.untyped_storage().data_ptr() == begin and tensor.dtype == parameter.dtype:
                count.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).add_(1)
        mine = count.as_strided(parameter.shape, parameter.stride(), parameter.storage_offset())
        if wrong := int((mine != 1).sum()):
            found[name] = f"{wrong} of {mine.numel()} elements not written exactly once"
    return found


@dataclass
class Plan:
    """How to bring the buffer's weights into a model. `rest` are tensors that only the engine's loader can bring."""

    load: Callable[[Iterator[tuple[str, Tensor]]], Any]
    named: list[tuple[str, Tensor]]
    pairs: list[Pair]
    rest: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    graph: Any = None

    @classmethod
    def record(
        cls, model: Any, load: Callable[[Any], Any], buffer: Tensor, slots: Sequence[Slot], dtype: torch.dtype
    ) -> "Plan":
        """Load once through the engine's loader, watched. A parameter that the copies do not write exactly once sends
        all through the loader."""
        named, start = list(views(buffer, slots, dtype)), time.perf_counter()
        recorder = Recorder(buffer.untyped_storage().data_ptr())

        def given() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in named:
                recorder.current = name
                yield name, tensor

        with torch.no_grad(), recorder:
            load(given())
        sizes = {slot.name: slot.bytes for slot in slots}
        copied: dict[str, int] = {}
        for pair in filter(same_copy, recorder.pairs):
            copied[pair.name] = copied.get(pair.name, 0) + pair.into.nbytes
        rest = [name for name, size in sizes.items() if copied.get(name, 0) < size]
        pairs = [pair for pair in recorder.pairs if same_copy(pair) and pair.name not in rest]
        missing = uncovered(distinct(model), recorder.pairs, recorder.filled)
        if missing or not pairs:
            pairs, rest = [], [name for name, _ in named]
        plan = cls(load, named, merged(pairs), rest)
        plan.facts = {
            "record_s": time.perf_counter() - start,
            "copies": len(plan.pairs),
            "copies_before_merging": len(pairs),
            "bytes": sum(pair.into.nbytes for pair in plan.pairs),
            "through_loader": len(rest),
            "why_loader": dict(list(missing.items())[:3]),
        }
        return plan

    def replay(self, how: str) -> None:
        """Bring the weights in: `loader` (the engine's own), `copies` (one by one), `foreach` (batched), `graph`."""
        with torch.no_grad():
            if self.pairs or how == "loader":
                self.ways[how]()
            if self.rest and how != "loader":
                kept = set(self.rest)
                self.load((name, tensor) for name, tensor in self.named if name in kept)

    @property
    def ways(self) -> dict[str, Callable[[], Any]]:
        return {"loader": self._load, "copies": self._copy, "foreach": self._foreach, "graph": self._graph}

    def _load(self) -> None:
        self.load(iter(self.named))

    def _copy(self) -> None:
        for pair in self.pairs:
            pair.into.copy_(pair.out_of, non_blocking=True)

    def _foreach(self) -> None:
        torch._foreach_copy_([p.into for p in self.pairs], [p.out_of for p in self.pairs], non_blocking=True)

    def swap(self) -> None:
        """Make two copies of one size take each other's source. Raises ValueError where there are none."""
        first: dict[int, Pair] = {}
        for pair in self.pairs:
            other = first.setdefault(pair.into.nbytes, pair)
            if other is not pair:
                pair.out_of, other.out_of, self.graph = other.out_of, pair.out_of, None
                return
        raise ValueError("no two copies of one size")

    def _graph(self) -> None:
        if self.graph is None:
            start = time.perf_counter()
            self.graph = self._captured()
            self.facts["capture_s"] = time.perf_counter() - start
        self.graph.replay()

    def _captured(self) -> Any:
        """A CUDA graph: large copies by the copy engine on streams side by side, small ones batched in one kernel."""
        small = [pair for pair in self.pairs if pair.into.nbytes < LARGE]
        large = sorted((p for p in self.pairs if p.into.nbytes >= LARGE), key=lambda p: -p.into.nbytes)
        self._foreach()  # what a first call allocates must not be captured
        torch.cuda.synchronize()
        graph, side = torch.cuda.CUDAGraph(), [torch.cuda.Stream() for _ in range(STREAMS - 1)]
        with torch.cuda.graph(graph):
            main = torch.cuda.current_stream()
            streams = [main, *side]
            for stream in side:
                stream.wait_stream(main)
            loads = [0] * len(streams)
            for pair in large:
                lane = loads.index(min(loads))
                loads[lane] += pair.into.nbytes
                with torch.cuda.stream(streams[lane]):
                    pair.into.copy_(pair.out_of, non_blocking=True)
            if small:
                torch._foreach_copy_([p.into for p in small], [p.out_of for p in small], non_blocking=True)
            for stream in side:
                main.wait_stream(stream)
        return graph


def distinct(model: Any) -> dict[str, Tensor]:
    """Parameters by name, those that share memory (tied embeddings) once."""
    seen = set[int]()
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.data_ptr() not in seen and parameter.numel():
            seen.add(parameter.data_ptr())
            found[name] = parameter.data
    return found


def hashes(model: Any, chunk: int = 1 << 22) -> dict[str, int]:
    """Of each parameter a 64-bit sum of its elements' bits, each weighted by its position: order counts."""
    return {name: hashed(parameter, chunk) for name, parameter in distinct(model).items()}


def hashed(tensor: Tensor, chunk: int = 1 << 22) -> int:
    """The position-weighted sum of one tensor, chunk by chunk so that little memory is taken."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    flat = tensor.detach().contiguous().view(bits).view(-1)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    weights = torch.arange(1, chunk + 1, dtype=torch.int64, device=tensor.device)
    weights = weights * -7046029254386353131 ^ (weights >> 7)  # odd constant: 2^64 over the golden ratio
    for begin in range(0, flat.numel(), chunk):
        part = flat[begin : begin + chunk].long()
        total = (total * 6364136223846793005 + ((part + 1) * weights[: part.numel()]).sum()) + begin
    return int(total)

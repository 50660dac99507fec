"""Copies between tensors of any two devices: one by one, batched in a kernel, or as a CUDA graph."""

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LARGE = 1 << 20  # bytes from which a copy of its own is faster than its share of a batched kernel
STREAMS = 2  # on which large copies run side by side

Tensor = Any  # torch.Tensor, which the light environment does not know


@dataclass
class Pair:
    """One copy: a slice of a parameter from a slice of a buffer."""

    into: Tensor
    out_of: Tensor
    name: str

    @property
    def near(self) -> bool:
        """Whether both are on one device."""
        return bool(self.into.device == self.out_of.device)

    @property
    def flat(self) -> bool:
        return bool(self.into.is_contiguous() and self.out_of.is_contiguous())


def merged(pairs: Sequence[Pair]) -> list[Pair]:
    """The same copies with neighbours, in the buffer as in the parameter, as one (q, k and v become one copy)."""
    found = [pair for pair in pairs if not pair.flat]
    flat = sorted((pair for pair in pairs if pair.flat), key=lambda pair: pair.out_of.data_ptr())
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
    same = all(
        getattr(second, side).untyped_storage().data_ptr() == getattr(first, side).untyped_storage().data_ptr()
        for side in ("into", "out_of")
    )
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


def copy(pair: Pair) -> None:
    """On the current stream. From host memory, which must be page-locked, or from another GPU by the copy engine."""
    rows = None if pair.near else _rows(pair)
    if rows is None:
        pair.into.copy_(pair.out_of, non_blocking=True)
        return
    (into, pitch), (out_of, other) = ((side.data_ptr(), side.stride(0) * side.element_size()) for side in rows)
    height, width = rows[0].shape
    stream = torch.cuda.current_stream(pair.into.device).cuda_stream
    bytes_ = width * pair.into.element_size()
    numbers = (into, pitch, out_of, other, bytes_, height)
    found = _runtime().cudaMemcpy2DAsync(*map(ctypes.c_size_t, numbers), 4, ctypes.c_void_p(stream))  # 4: any to any
    if found:
        raise RuntimeError(f"cudaMemcpy2DAsync failed with CUDA error {found} at {pair.name}")


def _rows(pair: Pair) -> tuple[Tensor, Tensor] | None:
    """Both sides as rows whose elements stand side by side; None where they are not of that form."""
    if pair.flat:
        return pair.into.view(1, -1), pair.out_of.view(1, -1)
    if pair.into.dim() == 2 and pair.into.stride(1) == pair.out_of.stride(1) == 1:
        return pair.into, pair.out_of
    return None


@functools.cache
def _runtime() -> Any:
    """The CUDA runtime that torch has loaded into this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return ctypes.CDLL(next(line.split()[-1] for line in lines if "libcudart" in line))


def batch(pairs: Sequence[Pair]) -> None:
    """Copies within one device in as few kernels as torch makes of them, the others one by one."""
    near = [pair for pair in pairs if pair.near]
    if near:
        torch._foreach_copy_([pair.into for pair in near], [pair.out_of for pair in near], non_blocking=True)
    for pair in pairs:
        if not pair.near:
            copy(pair)


def captured(pairs: Sequence[Pair], fill: Any) -> Any:
    """A CUDA graph: large copies by the copy engine on streams side by side, small ones batched in one kernel; `fill()`
    stands in it too."""
    small = [pair for pair in pairs if pair.into.nbytes < LARGE and pair.near]
    kept = {id(pair) for pair in small}
    large = sorted((pair for pair in pairs if id(pair) not in kept), key=lambda pair: -pair.into.nbytes)
    batch(pairs)  # what a first call allocates must not be captured
    fill()
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
                copy(pair)
        batch(small)
        fill()
        for stream in side:
            main.wait_stream(stream)
    return graph

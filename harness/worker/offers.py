"""What senders offer, held against what a model takes, before anything is touched. No torch."""

import difflib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.worker.flat import Slot

Shape = tuple[int, ...]
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # by safetensors' names
HEADER = 100 << 20  # bytes: safetensors' own limit


class Unfit(Exception):
    """What is offered does not fit. Nothing was touched: the engine can go on with the weights that it has."""


def unlike(offered: Sequence[tuple[str, Shape]], wanted: Mapping[str, Shape]) -> str:
    """What is wrong with the tensors offered (names and shapes) for a model that takes others; empty where all fit."""
    found = list(_differences(offered, wanted))
    return _told(found) and f"{_told(found)}: offer the tensors of the model's checkpoint, by its names and shapes"


def _differences(offered: Sequence[tuple[str, Shape]], wanted: Mapping[str, Shape]) -> Iterator[str]:
    seen = set[str]()
    for name, shape in offered:
        if name in seen:
            yield f"tensor {name} is offered twice"
        elif name not in wanted:
            yield f"the model has no tensor {name}{close(name, wanted)}"
        elif shape != wanted[name]:
            yield f"tensor {name} has the shape {list(shape)}, the model's has {list(wanted[name])}"
        seen.add(name)
    for name in wanted:
        if name not in seen:
            yield f"tensor {name} of the model is not offered"


def close(name: str, known: Collection[str]) -> str:
    """The known name that is most like another; empty where none is."""
    found = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _told(found: Sequence[str]) -> str:
    return "" if not found else found[0] if len(found) == 1 else f"{found[0]} (and {len(found) - 1} more)"


def fit(slots: Sequence[Slot], itemsize: int, dtype: str, taken: Collection[str]) -> None:
    """Raises Unfit for tensors of a dtype that none of the model's parameters has, or of another size than it says."""
    if dtype not in taken:
        raise Unfit(f"the senders offer {dtype}, the model has {' and '.join(sorted(taken))}: send them as that")
    for slot in slots:
        if slot.bytes != math.prod(slot.shape) * itemsize:
            raise Unfit(f"tensor {slot.name}, {list(slot.shape)} of {dtype}, cannot have {slot.bytes} bytes")


def whole(slot: Slot, parts: Sequence[tuple[int, int]]) -> None:
    """Raises Unfit where parts of a tensor (where each begins, and its bytes) are not all of it, each byte once."""
    at = 0
    for begin, size in sorted(parts):
        if begin != at:
            break
        at += size
    if at != slot.bytes or sum(size for _, size in parts) != slot.bytes:
        offered = ", ".join(f"{begin} to {begin + size}" for begin, size in sorted(parts)[:4]) or "none"
        raise Unfit(
            f"the senders offer not each of the {slot.bytes} bytes of tensor {slot.name} once, but {offered}: "
            "does each hold the share of a rank of its own?"
        )


def checkpoint(folder: Path, slots: Sequence[Slot], dtype: str) -> None:
    """Raises Unfit for a checkpoint of one file of safetensors that is not there, is cut off, or holds other tensors:
    an engine's loader would notice when it is half done, or not at all."""
    path = folder / "model.safetensors"
    try:
        header, end = _header(path)
    except (OSError, ValueError) as error:
        raise Unfit(f"{path} is no checkpoint: {error}; send the weights again") from None
    named = {name: value for name, value in header.items() if name != "__metadata__"}
    found = [(name, tuple(value["shape"])) for name, value in named.items()]
    if wrong := unlike(found, {slot.name: slot.shape for slot in slots}):
        raise Unfit(f"{path}: {wrong}")
    other = {DTYPES.get(value["dtype"], value["dtype"]) for value in named.values()} - {dtype}
    if other:
        raise Unfit(f"{path} holds {', '.join(sorted(other))}, not {dtype}: send the weights again")
    if (size := path.stat().st_size) != (need := end + max(value["data_offsets"][1] for value in named.values())):
        raise Unfit(f"{path} has {size} bytes, its tensors need {need}: it was cut off, send the weights again")


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of itself, and the byte where its tensors begin. Raises ValueError for none."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size) if size <= HEADER else b""
    if not size or len(text) != size:
        raise ValueError("it has no whole header")
    header: dict[str, Any] = json.loads(text)
    return header, 8 + size

"""Packed broadcasts: each sender's buffer goes to all receivers bucket by bucket, through two staging buffers, so that
one is copied into the model while the next arrives.

A group a sender: its rank is 0, the receivers' follow. They meet in a file, nothing listens beyond loopback.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from harness.worker.flat import Slot
from harness.worker.source import Part, Source

Address = dict[str, Any]
_groups: dict[str, Any] = {}  # by the file in which they meet


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    import os
    import uuid

    return {"meeting": str(Path(folder, f"group-{os.getpid()}-{uuid.uuid4().hex[:8]}"))}


def group(kind: str, address: Address, rank: int) -> Any:
    """The process group of a sender and all receivers, made at the first broadcast."""
    import torch.distributed as dist

    path = address["meeting"]
    if path in _groups:
        return _groups[path]
    size, patience = 1 + address["receivers"], timedelta(seconds=address["patience"])
    with patient(kind, address, f"the group of sender {address['sender']} and {address['receivers']} receivers"):
        store = dist.FileStore(path, size)
        store.set_timeout(patience)
        if kind == "gloo":
            _groups[path] = dist.ProcessGroupGloo(store, rank, size, patience)
        else:
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = patience
            _groups[path] = dist.ProcessGroupNCCL(store, rank, size, options)
    return _groups[path]


@contextmanager
def patient(kind: str, address: Address, what: str) -> Iterator[None]:
    """Raises RuntimeError that says so where the other side does not come in time, or is cut off."""
    start, seconds = time.monotonic(), address["patience"]
    try:
        yield
    except RuntimeError as error:
        late = time.monotonic() - start >= 0.9 * seconds
        how = f"not all came within {seconds:g} s" if late else "the other side was cut off"
        first = str(error).strip().partition("\n")[0]
        raise RuntimeError(f"{kind}, {what}: {how}: see the logs of both sides ({first})") from error


def broadcast(found: Any, tensor: Any) -> Any:
    """Begin to send from rank 0, or to receive there."""
    import torch.distributed as dist

    options = dist.BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    return found.broadcast([tensor], options)


def waited(kind: str, address: Address, work: Any) -> None:
    """Until what was begun is done: on a GPU in the order of the current stream, else now."""
    with patient(kind, address, f"a broadcast of sender {address['sender']}"):
        work.wait()


def staged(kind: str, addresses: Sequence[Address], rank: int, new: Any) -> Source:
    """A source whose stages are the senders' buckets, each in one of two tensors that `new(bytes)` makes."""
    parts = [(sender, begin, end) for sender, address in enumerate(addresses) for begin, end in address["buckets"]]
    size = max(end - begin for _, begin, end in parts)
    staging = [new(size) for _ in range(min(2, len(parts)))]
    stages = [[Part(sender, begin, staging[at % 2][: end - begin])] for at, (sender, begin, end) in enumerate(parts)]

    def fetch(stage: int) -> Any:
        (part,) = stages[stage]
        address = addresses[part.sender]
        return address, broadcast(group(kind, address, 1 + rank), part.tensor)

    def close() -> None:
        for address in addresses:
            _groups.pop(address["meeting"], None)

    found = Source(stages, fetch, lambda begun: waited(kind, *begun), close)
    found.facts = {"buckets": len(parts), "bucket_bytes": size}
    found.own = size * len(staging)
    return found

"""Packed broadcasts: each sender's buffer goes to all receivers bucket by bucket, through two staging buffers, so that
one is copied into the model while the next arrives.

A group a sender: its rank is 0, the receivers' follow. They meet in a file, nothing listens beyond loopback.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from harness.worker.flat import Slot
from harness.worker.source import Part, Source

Address = dict[str, Any]
PATIENCE = 60  # seconds that a broadcast may wait for the other side
_groups: dict[str, Any] = {}  # by the file in which they meet


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    import os
    import uuid

    return {"meeting": str(Path(folder, f"group-{os.getpid()}-{uuid.uuid4().hex[:8]}"))}


def group(kind: str, address: Address, rank: int) -> Any:
    """The process group of a sender and all receivers, made at the first broadcast."""
    import torch.distributed as dist

    path = address["meeting"]
    if path not in _groups:
        size, patience = 1 + address["receivers"], timedelta(seconds=PATIENCE)
        store = dist.FileStore(path, size)
        store.set_timeout(patience)
        if kind == "gloo":
            _groups[path] = dist.ProcessGroupGloo(store, rank, size, patience)
        else:
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = patience
            _groups[path] = dist.ProcessGroupNCCL(store, rank, size, options)
    return _groups[path]


def broadcast(found: Any, tensor: Any) -> Any:
    """Begin to send from rank 0, or to receive there."""
    import torch.distributed as dist

    options = dist.BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    return found.broadcast([tensor], options)


def staged(kind: str, addresses: Sequence[Address], rank: int, new: Any) -> Source:
    """A source whose stages are the senders' buckets, each in one of two tensors that `new(bytes)` makes."""
    parts = [(sender, begin, end) for sender, address in enumerate(addresses) for begin, end in address["buckets"]]
    size = max(end - begin for _, begin, end in parts)
    staging = [new(size) for _ in range(min(2, len(parts)))]
    stages = [[Part(sender, begin, staging[at % 2][: end - begin])] for at, (sender, begin, end) in enumerate(parts)]

    def fetch(stage: int) -> Any:
        (part,) = stages[stage]
        return broadcast(group(kind, addresses[part.sender], 1 + rank), part.tensor)

    def close() -> None:
        for address in addresses:
            _groups.pop(address["meeting"], None)

    found = Source(stages, fetch, lambda work: work.wait(), close)
    found.facts = {"buckets": len(parts), "bucket_bytes": size}
    found.own = size * len(staging)
    return found

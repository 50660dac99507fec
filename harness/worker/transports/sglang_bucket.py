"""SGLang's own `update_weights_from_tensor` of flattened buckets: tensors copied one behind the other, a handle each.

As slime does it: the next bucket is made when the engine has loaded the last, so that one bucket's memory is enough.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.worker.flat import Slot, views
from harness.worker.transports import group
from harness.worker.transports.buckets import BYTES, buckets
from harness.worker.transports.line import Line, Listener
from harness.worker.transports.phases import Phases
from harness.worker.transports.sglang_calls import serialized, update_from_tensor
from harness.worker.transports.shared import read, written

ENGINE = "sglang"
TOGETHER = True
BUCKET = BYTES
FORMAT = "flattened_bucket"

Address = dict[str, Any]
_listeners: dict[str, Listener] = {}  # of the sender, by path
_lines: dict[str, Line] = {}  # of the engine, by path


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    serialized(())  # imports what sending needs
    path = str(Path(folder, "bucket"))
    _listeners[path] = Listener(Path(path))
    return {"path": path}


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> None:
    """Returns when the engine has loaded the last bucket, of `bucket` bytes or one larger tensor. Raises RuntimeError
    when it stops before."""
    group.alone(address)
    line = _listeners[address["path"]].connected()
    for part in buckets(slots, address["bucket"]):
        bucket = _flattened(buffer, part, dtype)
        each = [written(serialized(bucket)) for _ in range(address["receivers"])]
        line.send({"bucket": each, "last": part[-1] == slots[-1]})
        line.receive()
        del bucket  # the engine has loaded it, and let go of it
        if buffer.is_cuda:
            import torch

            torch.cuda.ipc_collect()


def _flattened(buffer: Any, slots: Sequence[Slot], dtype: Any) -> dict[str, Any]:
    """A bucket, copied on the device when this returns."""
    import torch
    from sglang.srt.weight_sync.tensor_bucket import FlattenedTensorBucket

    bucket = FlattenedTensorBucket(named_tensors=list(views(buffer, slots, dtype)))
    if buffer.is_cuda:
        torch.cuda.current_stream().synchronize()
    return {"flattened_tensor": bucket.get_flattened_tensor(), "metadata": bucket.get_metadata()}


async def join(adapter: Any, address: Address) -> Address:
    _lines[address["path"]] = Line.connect(address["path"])
    return {}


async def take(adapter: Any, address: Address, payload: None) -> dict[str, float]:
    """`pack`: the sender's part, which the engine waits for; `load`: the engine's calls."""
    phases, line, last = Phases(), _lines[address["path"]], False
    while not last:
        with phases.timed("pack"):
            message = await line.heard()
        last = message["last"]
        with phases.timed("load"):
            await update_from_tensor(adapter, [read(each) for each in message["bucket"]], FORMAT, flush=last)
        line.send({"loaded": True})
    return phases


async def leave(adapter: Any, address: Address) -> None:
    _lines.pop(address["path"]).close()

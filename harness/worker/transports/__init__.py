"""Ways of weights from a sender to an engine, a module each with both sides.

What rollbench's own receiver takes in (`TRANSPORTS`):

- `offer(buffer, slots, dtype, folder)`: the sender's side, once: an address (what JSON can hold) for the receivers;
- `send(buffer, slots, dtype, address)`: the sender's side at every sync, done on the device when it returns;
- `opened(address, device)`: the receiver's side, once: a buffer (uint8, one dimension) with the sender's layout, or
  None where the engine itself reads what was sent;
- `closed(buffer)`: the receiver's side, when nothing is read from the buffer any more.

What an engine takes in by its own calls (`OWN_WAYS`), made in its front process (`adapter`, an `engines.Engine`):

- `ENGINE`: whose way it is; `TOGETHER`: whether `send` must run while the engine's `take` does;
- `offer` as above; `send` too, but it returns a payload for `take` (what JSON can hold, None where nothing is needed);
- `await join(adapter, address)`: the engine's side, once, behind `offer`; facts;
- `await take(adapter, address, payload)`: the engine's side at every sync; seconds of its parts, the engine's cache
  being empty when it returns;
- `await leave(adapter, address)`: the engine's side, when no more is taken.

All raise RuntimeError with what to do, or with the engine's words.
"""

import importlib
from typing import Any

TRANSPORTS = ("ipc", "shm", "disk")
OWN_WAYS = (
    "vllm_ipc", "vllm_nccl", "vllm_reload",
    "sglang_tensor", "sglang_bucket", "sglang_distributed", "sglang_disk",
)  # fmt: skip


def load(name: str) -> Any:
    """The module of a transport. Raises ValueError for a name that is none."""
    if name not in (known := (*TRANSPORTS, *OWN_WAYS)):
        raise ValueError(f"no transport {name!r}: known are {', '.join(known)}")
    return importlib.import_module(f"harness.worker.transports.{name}")

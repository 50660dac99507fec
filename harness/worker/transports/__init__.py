"""Ways of weights from senders to an engine, a module each with both sides.

What rollbench's own receiver takes in (`TRANSPORTS`):

- `offer(buffer, slots, dtype, folder)`: a sender's side, once: an address (what JSON can hold) for the receivers;
- `send(buffer, slots, dtype, address)`: a sender's side at every sync, done on the device when it returns;
- `opened(addresses, device, rank)`: the receiver's side, once: a `harness.worker.source.Source` of what all senders
  offer, or None where the engine itself reads what was sent; raises `offers.Unfit` for what cannot be opened;
- `TOGETHER`: whether both sides must be at it at the same time;
- `ON_DISK`, where it is true: what is sent lies on a disk, not in shared memory.

The holder adds to each address where the sender stands among the others (`sender`, `senders`, `receivers`), what it
holds (`pieces`), and the parts in which it sends where it does not offer its buffer as a whole (`buckets`).

What an engine takes in by its own calls (`OWN_WAYS`), from one sender that holds whole tensors:

- `ENGINE`: whose way it is; `TOGETHER` and `ON_DISK` as above; `BUCKET`: bytes at once that frameworks give it, where
  it has buckets; `BACKEND`, where there is one: the weight transfer that vLLM must have been started for;
- `offer` as above; `meet(buffer, slots, dtype, address)`, where there is one, begins to wait for the engine;
- `send` as above, but it returns a payload for `take` (what JSON can hold, None where nothing is needed);
- `await join(adapter, address)`: the engine's side, once, in its front process (`adapter`: an `engines.Engine`); facts;
- `await take(adapter, address, payload)`: the engine's side at every sync; seconds of its parts, the engine's prefix
  cache being empty when it returns;
- `await leave(adapter, address)`: the engine's side, when no more is taken.

They raise RuntimeError with what to do, or with the engine's words.
"""

import importlib
from typing import Any

TRANSPORTS = ("ipc", "nccl", "gloo", "shm", "disk")
OWN_WAYS = (
    "vllm_ipc", "vllm_nccl", "vllm_reload",
    "sglang_tensor", "sglang_bucket", "sglang_distributed", "sglang_disk",
)  # fmt: skip


def load(name: str) -> Any:
    """The module of a transport. Raises ValueError for a name that is none."""
    if name not in (known := (*TRANSPORTS, *OWN_WAYS)):
        raise ValueError(f"no transport {name!r}: known are {', '.join(known)}")
    return importlib.import_module(f"harness.worker.transports.{name}")

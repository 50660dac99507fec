"""Ways of weights from senders to an engine, a module each with both sides:

- `offer(buffer, slots, dtype, folder)`: a sender's side, once: an address (what JSON can hold) for the receivers;
- `send(buffer, slots, dtype, address)`: a sender's side at every sync, done on the device when it returns;
- `opened(addresses, device, rank)`: the receiver's side, once: a `harness.worker.source.Source` of what all senders
  offer, or None where the engine itself reads what was sent;
- `TOGETHER`: whether both sides must be at it at the same time.

The holder adds to each address where the sender stands among the others (`sender`, `senders`, `receivers`), what it
holds (`pieces`), and the parts in which it sends where it does not offer its buffer as a whole (`buckets`).
"""

import importlib
from typing import Any

TRANSPORTS = ("ipc", "nccl", "gloo", "shm", "disk")


def load(name: str) -> Any:
    """The module of a transport. Raises ValueError for a name that is none."""
    if name not in TRANSPORTS:
        raise ValueError(f"no transport {name!r}: known are {', '.join(TRANSPORTS)}")
    return importlib.import_module(f"harness.worker.transports.{name}")

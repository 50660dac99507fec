"""Ways of weights from a sender to an engine, a module each with both sides:

- `offer(buffer, slots, dtype, folder)`: the sender's side, once: an address (what JSON can hold) for the receivers;
- `send(buffer, slots, dtype, address)`: the sender's side at every sync, done on the device when it returns;
- `opened(address, device)`: the receiver's side, once: a buffer (uint8, one dimension) with the sender's layout, or
  None where the engine itself reads what was sent;
- `closed(buffer)`: the receiver's side, when nothing is read from the buffer any more.
"""

import importlib
from typing import Any

TRANSPORTS = ("ipc", "shm", "disk")


def load(name: str) -> Any:
    """The module of a transport. Raises ValueError for a name that is none."""
    if name not in TRANSPORTS:
        raise ValueError(f"no transport {name!r}: known are {', '.join(TRANSPORTS)}")
    return importlib.import_module(f"harness.worker.transports.{name}")

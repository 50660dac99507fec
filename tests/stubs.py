"""A sender of weights and an engine without weights, which fail when they are told to: `python -m tests.stubs NAME …`.

`update(step)` tells a sender what its next `send` does, the engine's option `weights` what a sync does: see FAULTS.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from harness.worker.__main__ import serve
from harness.worker.offers import Unfit


def _fail() -> None:
    raise RuntimeError("something\nwent wrong")


def _refuse() -> None:
    raise Unfit("that does not fit")


FAULTS: list[Callable[[], None]] = [lambda: None, _fail, lambda: os._exit(9), lambda: time.sleep(60), _refuse]
GOOD, FAILS, DIES, HANGS, REFUSES = range(len(FAULTS))


class Sender:
    fault = GOOD

    def hold(self, tensors: list[tuple[str, list[int]]], dtype: str, **_: Any) -> dict[str, Any]:
        slots = [[name, shape, 0, 0] for name, shape in tensors]
        return {"slots": slots, "dtype": dtype, "bytes": 1, "buffer": 1}

    def offer(self, **_: Any) -> dict[str, Any]:
        return {}

    def update(self, step: int) -> None:
        self.fault = step

    def send(self, transport: str) -> None:
        FAULTS[self.fault]()

    def close(self) -> None:
        pass


class Engine:
    def start(self, options: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.native = options["native"]
        return {"flags": {"vocab_size": 100}, "versions": {}}

    def straight(self, wanted: bool) -> bool:
        return False

    def weights(self, request: dict[str, Any], flush: bool) -> list[Any]:
        if request["do"] == self.native.get("at", "sync"):
            FAULTS[self.native.get("weights", GOOD)]()
        return [{"device": 1.0, "worker": 0.0}]

    def generate(self, **_: Any) -> None:
        FAULTS[HANGS]()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


if __name__ == "__main__":
    serve((Sender if sys.argv[1].startswith("sender") else Engine)(), int(sys.argv[2]), int(sys.argv[3]))

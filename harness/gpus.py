"""The GPUs that CUDA shows to an engine, as NVML knows them."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"  # where it is set, the GPUs are those that it names


@contextmanager
def nvml() -> Iterator[Any]:
    """The NVML module, initialised where there is a driver; `handles` is empty where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield pynvml
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def handles(n: Any) -> list[Any]:
    """Of the GPUs in CUDA's order: `cuda:0` is the first. All of the host, or those that CUDA_VISIBLE_DEVICES names up
    to the first entry that names none, where CUDA stops too. Indices count as NVML does, by PCI bus, which
    `harness.client.environment` has CUDA do."""
    try:
        every = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
    except n.NVMLError:
        return []
    if (names := os.environ.get(VISIBLE)) is None:
        return every
    found = (_named(n, name.strip(), every) for name in names.split(","))
    return list(itertools.takewhile(lambda card: card is not None, found))


def _named(n: Any, name: str, every: list[Any]) -> Any:
    """The GPU of an index, of a UUID or its beginning, or of a MIG slice's UUID; None where there is none."""
    if name.isdecimal():
        return dict(enumerate(every)).get(int(name))
    try:
        if name.startswith("MIG-"):
            return n.nvmlDeviceGetHandleByUUID(name)
        fitting = [card for card in every if name.startswith("GPU-") and n.nvmlDeviceGetUUID(card).startswith(name)]
    except n.NVMLError:
        return None
    return fitting[0] if len(fitting) == 1 else None

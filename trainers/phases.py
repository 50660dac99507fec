"""Seconds and peak memory of the phases of a step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Phases:
    """Phases by name, with nothing left to do on the device at their ends; one that comes again adds to its seconds."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.on_gpu = device, device.type == "cuda"
        self.seconds, self.peaks = dict[str, float](), dict[str, float]()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = self.now()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - began
        if self.on_gpu:
            peak = float(torch.cuda.max_memory_allocated(self.device))
            self.peaks[name] = max(self.peaks.get(name, 0.0), peak)

    def now(self) -> float:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def figures(self) -> dict[str, float]:
        """`…_s`, and on a GPU `…_bytes`; they are forgotten."""
        found = {f"{name}_s": value for name, value in self.seconds.items()}
        found |= {f"{name}_bytes": value for name, value in self.peaks.items()}
        self.seconds.clear()
        self.peaks.clear()
        return found

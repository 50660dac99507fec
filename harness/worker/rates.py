"""What the devices reach with the torch of this environment: `python -m harness.worker.rates NAME INCOMING OUTGOING`.

`rates` gives a list, an entry a visible CUDA device: `device`, its name; `copy_gb_s`, copies within its memory, 10^9
bytes read and written a second, the median, and `copy_gb_s_best`; `matmul_tflop_s`, products of square matrices of
`matmul_dtype`, 10^12 FLOP/s, the median. Without CUDA one entry, `cpu`, for one thread on small sizes. Nothing else may
run meanwhile.
"""

import sys
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

from harness.worker.__main__ import serve

WARM_UP, TIMED = 3, 20  # runs


class Probe:
    def rates(self) -> list[dict[str, Any]]:
        import torch

        if torch.cuda.is_available():
            return [cuda(torch, index) for index in range(torch.cuda.device_count())]
        torch.set_num_threads(1)
        return [{"device": "cpu"} | rates(torch, "cpu", 64 << 20, 1024, torch.float32)]


def cuda(torch: Any, index: int) -> dict[str, Any]:
    torch.cuda.set_device(index)  # events and the cache are the current device's
    found = {"device": torch.cuda.get_device_name(index)} | rates(torch, "cuda", 1 << 30, 8192, torch.bfloat16)
    torch.cuda.empty_cache()
    return found


def rates(torch: Any, device: str, size: int, side: int, dtype: Any) -> dict[str, Any]:
    """Rates of copies of `size` bytes and of products of matrices of side times side."""
    copy, product = copies(torch, device, size), products(torch, device, side, dtype)
    return {
        "copy_gb_s": round(2 * size / median(copy) / 1e9, 1),
        "copy_gb_s_best": round(2 * size / min(copy) / 1e9, 1),
        "matmul_tflop_s": round(2 * side**3 / median(product) / 1e12, 3),
        "matmul_dtype": str(dtype).removeprefix("torch."),
    }


def copies(torch: Any, device: str, size: int) -> list[float]:
    """Seconds of each copy. Memory is written first: pages never touched are all the same one."""
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    return seconds(torch, device, lambda: target.copy_(source))


def products(torch: Any, device: str, side: int, dtype: Any) -> list[float]:
    """Seconds of each product, of random matrices: a GPU multiplies zeros faster."""
    left, right, out = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(3))
    return seconds(torch, device, lambda: torch.matmul(left, right, out=out))


def seconds(torch: Any, device: str, work: Callable[[], Any]) -> list[float]:
    """Seconds of each timed run, on the device's own clock where it has one."""
    for _ in range(WARM_UP):
        work()
    if device == "cpu":
        marks = [time.perf_counter()]
        for _ in range(TIMED):
            work()
            marks.append(time.perf_counter())
        return [after - before for before, after in pairwise(marks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1000 for before, after in pairwise(events)]  # it counts milliseconds


if __name__ == "__main__":
    serve(Probe(), int(sys.argv[2]), int(sys.argv[3]))

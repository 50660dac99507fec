"""Every metric that a record can hold: unit, direction, definition, and what the gate takes for a change."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """`tolerance`: the smallest ratio away from 1 worth a verdict; `detect`: the smallest effect that a `pass` promises
    it would have seen. Both are shares: 0.03 is 3 %."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    definition: str
    tolerance: float
    detect: float


METRICS = {
    m.name: m
    for m in (
        Metric("output_throughput", "output", "tok/s", "higher",
               "generated tokens of a step over its seconds, from the sending of the batch to its last token", 0.03, 0.05),
        Metric("step_time", "step", "s", "lower", "from the sending of a batch to its last token", 0.03, 0.05),
        Metric("ttft", "TTFT", "s", "lower",
               "time to first token: median over a step's requests, from the sending of the batch", 0.05, 0.10),
        Metric("latency", "latency", "s", "lower",
               "time to last token: median over a step's requests, from the sending of the batch", 0.05, 0.10),
        Metric("startup", "start-up", "s", "lower",
               "from the start of the process to an engine ready for requests; one sample a launch", 0.10, 0.20),
        Metric("peak_memory", "peak memory", "GiB", "lower",
               "on a GPU, device memory in use after the last step; on a CPU, the sum of the peak resident sizes of the "
               "launch's processes (pages that they share count in each); one sample a launch", 0.05, 0.10),
    )
}  # fmt: skip

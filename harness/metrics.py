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
        Metric(
            name="output_throughput", title="output", unit="tok/s", better="higher", tolerance=0.03, detect=0.05,
            definition="generated tokens of a step over its seconds, from the sending of the batch to its last token",
        ),
        Metric(
            name="step_time", title="step", unit="s", better="lower", tolerance=0.03, detect=0.05,
            definition="from the sending of a batch to its last token",
        ),
        Metric(
            name="ttft", title="TTFT", unit="s", better="lower", tolerance=0.05, detect=0.10,
            definition="time to first token: median over a step's requests, from the sending of the batch",
        ),
        Metric(
            name="latency", title="latency", unit="s", better="lower", tolerance=0.05, detect=0.10,
            definition="time to last token: median over a step's requests, from the sending of the batch",
        ),
        Metric(
            name="startup", title="start-up", unit="s", better="lower", tolerance=0.10, detect=0.20,
            definition="from the start of the process to an engine ready for requests; one sample a launch",
        ),
        Metric(
            name="peak_memory", title="peak memory", unit="GiB", better="lower", tolerance=0.05, detect=0.10,
            definition="on a GPU, device memory in use after the last step; on a CPU, the sum of the peak resident "
            "sizes of the launch's processes (pages that they share count in each); one sample a launch",
        ),
    )
}  # fmt: skip

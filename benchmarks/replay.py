"""Replay: a recorded workload (`harness.trace`), as `rollbench run --trace FILE` measures it.

Prompts given as token ids are the same in every step, so each begins with a flush; those given as a number are drawn
anew.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import CPU, GPU, HALF
from harness import trace
from harness.inference import Inference
from harness.paths import PROJECT
from harness.rollouts import Requests
from harness.workload import Seed


@dataclass(frozen=True, kw_only=True)
class Replay(Inference):
    trace: str

    @property
    def steady(self) -> str:
        return "latency"

    def requests(self, seed: Seed, vocab: int) -> Requests:
        return trace.requests(trace.load(Path(self.trace)), seed, vocab)

    def params(self) -> dict[str, Any]:
        """With the file's hash in place of its folder, which says nothing elsewhere."""
        path = Path(self.trace)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        return super().params() | {"trace": f"{path.name} (sha256 {digest})"}


def of_file(path: Path, gpus: int) -> Replay:
    """The case of a trace file, on a machine with so many GPUs. Raises UserError for a file that is no trace."""
    trace.load(path)
    if gpus:
        return Replay(model=HALF, gpus=1, options=replace(GPU, max_model_len=32768), trace=str(path), stream=True)
    return Replay(model="tiny-qwen3", options=CPU, trace=str(path), stream=True)


AGENT = PROJECT / "benchmarks" / "traces" / "agent.jsonl"
CASES = {"tiny-agent": of_file(AGENT, gpus=0), "0.5B-agent": of_file(AGENT, gpus=1)}

"""Single-turn: a batch of prompts sent at once, each answered with exactly so many tokens, from a cold prefix cache."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.scenario import Options, Scenario
from harness.workload import random_prompts

if TYPE_CHECKING:
    from harness.rig import Rig


@dataclass(frozen=True, kw_only=True)
class SingleTurn(Scenario):
    requests: int = 16
    input_tokens: int = 128
    output_tokens: int = 64
    temperature: float = 1.0
    seed: int = 0

    def step(self, rig: "Rig", index: int) -> dict[str, float]:
        prompts = random_prompts(
            (self.seed, index), self.requests, self.input_tokens, self.output_tokens, rig.vocabulary
        )
        rig.flush()
        out = rig.generate(prompts, temperature=self.temperature, cached=0)
        seconds = float(out.seconds)
        return {
            "output_throughput": int(out.output_B.sum()) / seconds,
            "step_time": seconds,
            "ttft": float(np.median(out.first_B)),
            "latency": float(np.median(out.done_B)),
        }


# One thread a process and no compilation: on few cores the engines' threads get in each other's way, and a CPU figure
# shows that all works, not how fast an engine is.
CPU = Options(dtype="float32", eager=True, multiprocessing=False, max_running=256)

CASES = {
    "tiny-1": SingleTurn(model="tiny-qwen3", requests=1, options=CPU),
    "tiny-16": SingleTurn(model="tiny-qwen3", requests=16, options=CPU),
    "tiny-64": SingleTurn(model="tiny-qwen3", requests=64, input_tokens=64, output_tokens=32, options=CPU),
    "tiny-llama-16": SingleTurn(model="tiny-llama", requests=16, options=CPU),
    "tiny-qwen2-16": SingleTurn(model="tiny-qwen2", requests=16, options=CPU),
    "0.5B-16": SingleTurn(model="Qwen2.5-0.5B", gpus=1, requests=16, output_tokens=128),
    "0.5B-128": SingleTurn(model="Qwen2.5-0.5B", gpus=1, requests=128, output_tokens=128),
    "0.5B-512": SingleTurn(model="Qwen2.5-0.5B", gpus=1, requests=512, output_tokens=128),
    "7B-16": SingleTurn(model="Qwen2.5-7B", gpus=1, requests=16, output_tokens=128),
    "7B-128": SingleTurn(model="Qwen2.5-7B", gpus=1, requests=128, output_tokens=128),
    "7B-512": SingleTurn(model="Qwen2.5-7B", gpus=1, requests=512, output_tokens=128),
}

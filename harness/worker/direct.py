"""The same work as a scenario's, asked of an engine directly in its own process: what the harness is held against.

`python -m harness.worker.direct ENGINE INCOMING OUTGOING`. It shares flags with the adapters, and how calls come in,
and nothing else.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from harness.worker.__main__ import serve

Batch = list[list[int]]
Generate = Callable[[Batch], int]  # generates, and says how many tokens came


def vllm(job: dict[str, Any]) -> tuple[Callable[[], Any], Generate]:
    from vllm import LLM, SamplingParams

    llm = LLM(model=job["model"], **job["flags"])
    sampling = SamplingParams(
        temperature=job["temperature"], max_tokens=job["output_tokens"], ignore_eos=True, detokenize=False
    )

    def generate(batch: Batch) -> int:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in batch], sampling, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return llm.reset_prefix_cache, generate


def sglang(job: dict[str, Any]) -> tuple[Callable[[], Any], Generate]:
    from sglang import Engine

    engine = Engine(model_path=job["model"], **job["flags"])
    sampling = {"temperature": job["temperature"], "max_new_tokens": job["output_tokens"], "ignore_eos": True}

    def generate(batch: Batch) -> int:
        return sum(len(output["output_ids"]) for output in engine.generate(input_ids=batch, sampling_params=sampling))

    return engine.flush_cache, generate


class Direct:
    def start(self, job: dict[str, Any]) -> None:
        os.environ.update(job["environment"])
        self._flush, self._generate = {"vllm": vllm, "sglang": sglang}[sys.argv[1]](job)

    def throughput(self, batch: Batch) -> float:
        """Tokens a second of a batch, from a cold prefix cache."""
        self._flush()
        start = time.perf_counter()
        tokens = self._generate(batch)
        return tokens / (time.perf_counter() - start)


if __name__ == "__main__":
    serve(Direct(), int(sys.argv[2]), int(sys.argv[3]))

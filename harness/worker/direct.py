"""The same work as a scenario's, asked of an engine directly in its own process: what the harness is held against.

`python -m harness.worker.direct ENGINE INCOMING OUTGOING`: a job comes over the wire, then batches, each answered with
its tokens per second. It shares flags with the adapters and nothing else.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from harness.wire import Wire
from harness.worker.__main__ import end_with_parent

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


def main() -> None:
    end_with_parent(int(sys.argv[2]))
    wire = Wire(int(sys.argv[2]), int(sys.argv[3]))
    job = wire.receive()
    os.environ.update(job["environment"])
    flush, generate = {"vllm": vllm, "sglang": sglang}[sys.argv[1]](job)
    while True:
        batch = wire.receive()["batch"]
        flush()
        start = time.perf_counter()
        tokens = generate(batch)
        wire.send({"throughput": tokens / (time.perf_counter() - start)})


if __name__ == "__main__":
    main()

"""Single-turn: prompts that share nothing (or a group's samples, one prompt), each answered with exactly so many tokens
from a cold prefix cache. All at once as a rollout batch is, or arriving one after another as a server's load does."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmarks import CPU, GPU, HALF, SEVEN, SEVENTY
from harness.inference import Inference
from harness.rollouts import Requests
from harness.workload import Seed, arriving, grouped, independent

Native = Mapping[str, Mapping[str, Any]]  # engine: its own flags


@dataclass(frozen=True, kw_only=True)
class SingleTurn(Inference):
    """`prompts`, each `samples` times in a group. `rate`: prompts a second (0: all at once)."""

    prompts: int = 16
    samples: int = 1
    input_tokens: int = 128
    output_tokens: int = 64
    rate: float = 0.0
    arrivals: Literal["poisson", "fixed"] = "poisson"

    def requests(self, seed: Seed, vocab: int) -> Requests:
        lengths = [self.input_tokens] * self.prompts, [self.output_tokens] * self.prompts
        found = grouped(independent(seed, *lengths, vocab), self.samples)
        return arriving(found, self.rate * self.samples, self.arrivals, seed) if self.rate else found


TINY = SingleTurn(model="tiny-qwen3", options=CPU, steps=8)
B05 = SingleTurn(model=HALF, gpus=1, options=GPU, prompts=512, output_tokens=128, steps=10)
B7 = replace(B05, model=SEVEN)
SPECULATIVE: Native = {  # tokens guessed from what stands in the prompt and the answer, which needs no second model
    "vllm": {"speculative_config": {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}},
    "sglang": {"speculative_algorithm": "NGRAM", "speculative_num_draft_tokens": 4},
}
PIPELINE: Native = {"vllm": {"pipeline_parallel_size": 2}, "sglang": {"pp_size": 2}}
SERVED = replace(TINY, prompts=16, output_tokens=32, stream=True, rate=8.0)

CASES = {
    "tiny-1": replace(TINY, prompts=1),
    "tiny-16": TINY,
    "tiny-64": replace(TINY, prompts=64, input_tokens=64, output_tokens=32),
    "tiny-llama-16": replace(TINY, model="tiny-llama"),
    "tiny-qwen2-16": replace(TINY, model="tiny-qwen2"),
    "tiny-poisson-8": SERVED,
    "tiny-fixed-8": replace(SERVED, arrivals="fixed"),
    # The guide's scenarios and switches.
    "tiny-gsm8k": replace(TINY, prompts=8, samples=4),
    "tiny-code": replace(TINY, prompts=2, output_tokens=2048, temperature=0.7, warmup=1, steps=3),
    "tiny-memory": replace(TINY, prompts=32, options=replace(CPU, kv_tokens=4096, max_model_len=1024)),
    "tiny-16-compiled": replace(TINY, options=replace(CPU, eager=False)),
    "tiny-16-multiprocessing": replace(TINY, options=replace(CPU, multiprocessing=True)),
    "tiny-16-no-prefix-caching": replace(TINY, options=replace(CPU, prefix_caching=False)),
    "tiny-16-speculative": replace(TINY, options=replace(CPU, native=SPECULATIVE)),
} | {
    f"{size}-{name}": case
    for size, base in (("0.5B", B05), ("7B", B7))
    for name, case in {
        "16": replace(base, prompts=16),
        "128": replace(base, prompts=128),
        "512": base,
        "poisson-16": replace(base, rate=16.0, prompts=256, stream=True, steps=3),
        "fixed-16": replace(base, rate=16.0, prompts=256, stream=True, arrivals="fixed", steps=3),
        "gsm8k": replace(base, prompts=128, samples=4, output_tokens=256),
        "code": replace(base, prompts=64, output_tokens=2048, temperature=0.7, steps=3),
        "memory": replace(base, options=replace(GPU, memory_fraction=0.5)),
        "512-eager": replace(base, options=replace(GPU, eager=True)),
        "512-no-multiprocessing": replace(base, options=replace(GPU, multiprocessing=False)),
        "512-no-prefix-caching": replace(base, options=replace(GPU, prefix_caching=False)),
        "512-memory-0.6": replace(base, options=replace(GPU, memory_fraction=0.6)),
        "512-memory-0.9": replace(base, options=replace(GPU, memory_fraction=0.9)),
        "128-speculative": replace(base, prompts=128, options=replace(GPU, native=SPECULATIVE)),
        "128-tp2": replace(base, prompts=128, gpus=2, options=replace(GPU, tensor_parallel=2)),
        "128-pp2": replace(base, prompts=128, gpus=2, options=replace(GPU, native=PIPELINE)),
        **{
            f"128-{backend}": replace(base, prompts=128, options=replace(GPU, attention=backend))
            for backend in ("fa3", "flashinfer", "triton", "torch-native")
        },
    }.items()
} | {
    f"70B-512-tp{gpus}": replace(B05, model=SEVENTY, gpus=gpus, options=replace(GPU, tensor_parallel=gpus), steps=5)
    for gpus in (2, 8)
}  # fmt: skip

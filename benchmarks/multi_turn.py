"""Multi-turn: conversations behind one system prompt; each turn's prompt holds all turns before it, as agents do.

What the prefix cache saves shows between a case and its `-no-prefix-caching` one.
"""

from dataclasses import dataclass, replace

from benchmarks import CPU, GPU, HALF, SEVEN
from harness.inference import Inference
from harness.rollouts import Requests
from harness.workload import Seed, conversations, grouped


@dataclass(frozen=True, kw_only=True)
class MultiTurn(Inference):
    """`conversations` of `turns` turns, each drawn `samples` times; `pause`: mean seconds that a tool call takes."""

    conversations: int = 8
    samples: int = 1
    turns: int = 4
    system_tokens: int = 512
    input_tokens: int = 64
    output_tokens: int = 32
    pause: float = 0.0
    cache_floor: float = 0.9

    def requests(self, seed: Seed, vocab: int) -> Requests:
        found = conversations(
            seed, self.conversations, self.turns, self.system_tokens, self.input_tokens, self.output_tokens,
            self.pause, vocab,
        )  # fmt: skip
        return grouped(found, self.samples)


TINY = MultiTurn(model="tiny-qwen3", options=CPU)
B05 = MultiTurn(
    model=HALF, gpus=1, options=GPU, conversations=64, turns=5, system_tokens=2048, input_tokens=128, output_tokens=128
)

CASES = {
    "tiny-shared": TINY,
    "tiny-shared-no-prefix-caching": replace(TINY, options=replace(CPU, prefix_caching=False)),
    "tiny-concurrency-4": replace(TINY, concurrency=4),
    "tiny-groups": replace(TINY, conversations=4, samples=4, turns=2),
    "tiny-agent": replace(TINY, pause=0.2, stream=True),
} | {
    f"{size}-{name}": case
    for size, base in (("0.5B", B05), ("7B", replace(B05, model=SEVEN)))
    for name, case in {
        "shared": base,
        "shared-no-prefix-caching": replace(base, options=replace(GPU, prefix_caching=False)),
        "concurrency-16": replace(base, concurrency=16),
        "groups": replace(base, conversations=16, samples=4),
        "agent": replace(base, pause=0.5, stream=True),
        **{
            f"shared-{backend}": replace(base, options=replace(GPU, attention=backend))
            for backend in ("fa3", "flashinfer", "triton")
        },
    }.items()
}  # fmt: skip

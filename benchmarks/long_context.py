"""Long sequences: long prompts, long answers, and lengths with a heavy tail, where all wait for the slowest request."""

from dataclasses import dataclass, replace

from benchmarks import CPU, HALF, LONG, SEVEN
from harness.inference import Inference
from harness.rollouts import Requests
from harness.workload import Seed, heavy_tail, independent


@dataclass(frozen=True, kw_only=True)
class LongContext(Inference):
    """`prompts` that share nothing. `mixed`: answer lengths are log-normal with median `output_tokens / 8` and at most
    `output_tokens`, the same in every step, so that steps do the same work."""

    prompts: int = 8
    input_tokens: int = 2048
    output_tokens: int = 32
    mixed: bool = False

    def requests(self, seed: Seed, vocab: int) -> Requests:
        outputs = [self.output_tokens] * self.prompts
        if self.mixed:
            outputs = heavy_tail((self.seed,), self.prompts, self.output_tokens // 8, self.output_tokens).tolist()
        return independent(seed, [self.input_tokens] * self.prompts, outputs, vocab)


TINY = LongContext(model="tiny-qwen3", options=CPU)
B05 = LongContext(model=HALF, gpus=1, options=LONG, prompts=32, input_tokens=16384, output_tokens=128, steps=3)

CASES = {
    "tiny-prompts": TINY,
    "tiny-outputs": replace(TINY, input_tokens=64, output_tokens=256),
    "tiny-mixed": replace(TINY, prompts=16, input_tokens=64, output_tokens=256, mixed=True),
} | {
    f"{size}-{name}": case
    for size, base in (("0.5B", B05), ("7B", replace(B05, model=SEVEN)))
    for name, case in {
        "prompts": base,
        "outputs": replace(base, prompts=128, input_tokens=128, output_tokens=4096),
        "mixed": replace(base, prompts=256, input_tokens=128, output_tokens=4096, mixed=True),
    }.items()
}  # fmt: skip

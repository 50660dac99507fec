"""The copy task learnt without an engine: rollouts are sampled by transformers.

32 symbols, words of 4 letters, at most 8 output tokens; the model has 85,000 parameters, and 15 supervised steps first.
`python -m tests.trainers.copying` learns by every algorithm, with three seeds, and says how long it took.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.shapes import Shape, configuration
from trainers.algorithms import ALGORITHMS, Algorithm, refill
from trainers.batch import Batch, build, group_ids
from trainers.lora import Lora
from trainers.optimiser import AdamW
from trainers.settings import Settings
from trainers.tasks import Copying, Example
from trainers.tasks.task import Alphabet
from trainers.trainer import Trainer

torch.set_num_threads(1)  # tensors so small are only slowed down by more
TASK, ALPHABET = Copying(shortest=4, longest=4), Alphabet()
LIMIT = 8  # output tokens
PROMPTS, GROUP = 32, 8  # of one step
WARM, WARM_RATE, RATE = 15, 3e-3, 1e-3
SHAPE = Shape(
    "qwen2", hidden=64, layers=2, heads=2, kv_heads=2, intermediate=128, vocab=len(Alphabet.SYMBOLS), tied=True,
    head_dim=32, rope_theta=100.0, context=64, dtype="float32",
)  # fmt: skip
SETTINGS = Settings(
    dtype="float32",
    optimiser=AdamW(rate=WARM_RATE, betas=(0.9, 0.95)),
    critic=AdamW(rate=3e-3, betas=(0.9, 0.95)),
    minibatches=2,
)
LEARNT = replace(SETTINGS, optimiser=AdamW(rate=RATE, betas=(0.9, 0.95)))
LORA = replace(LEARNT, lora=Lora(rank=16, alpha=32), optimiser=AdamW(rate=5e-3, betas=(0.9, 0.95)))


def folder(at: Path) -> str:
    """The model's configuration; its weights are random."""
    at.mkdir(parents=True, exist_ok=True)
    ids = {"bos_token_id": ALPHABET.pad, "eos_token_id": ALPHABET.end, "initializer_range": 0.1}
    (at / "config.json").write_text(json.dumps(configuration(SHAPE) | ids))
    return str(at)


@torch.no_grad()
def sample(model: Any, prompts: Tensor, random: torch.Generator, greedy: bool = False) -> tuple[Tensor, Tensor]:
    """LIMIT tokens behind prompts of one length, and their log-probabilities."""
    given, cache, tokens, scores = prompts, None, list[Tensor](), list[Tensor]()
    for _ in range(LIMIT):
        out = model(input_ids=given, past_key_values=cache, use_cache=True)
        cache, logp_BV = out.past_key_values, out.logits[:, -1].log_softmax(-1)
        given = logp_BV.argmax(-1, keepdim=True) if greedy else torch.multinomial(logp_BV.exp(), 1, generator=random)
        tokens.append(given)
        scores.append(logp_BV.gather(1, given))
    return torch.cat(tokens, dim=1), torch.cat(scores, dim=1)


@dataclass
class Course:
    """A trainer and what it is taught."""

    trainer: Trainer
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)

    def rollouts(self, examples: Sequence[Example], group: int, greedy: bool = False) -> Batch:
        asked = [example for example in examples for _ in range(group)]
        prompts = [ALPHABET.encode(example.prompt) for example in asked]
        found = sample(self.trainer.policy.network.hf, torch.tensor(prompts), self.random, greedy)
        rows = [one.tolist() for one in found[0]]
        ends = [row.index(ALPHABET.end) + 1 if ALPHABET.end in row else LIMIT for row in rows]
        outputs = [row[:end] for row, end in zip(rows, ends, strict=True)]
        scores = [row[:end].tolist() for row, end in zip(found[1], ends, strict=True)]
        rewards = [TASK.reward(e, [ALPHABET.decode(output)]) for e, output in zip(asked, outputs, strict=True)]
        ended = [output[-1] == ALPHABET.end for output in outputs]
        return build(prompts, outputs, scores, rewards, group_ids(len(asked), group), ended=ended, limit=LIMIT)

    def held_out(self, greedy: bool = False) -> float:
        """Mean reward of prompts that are never trained on."""
        examples = TASK.examples(128, seed=999, held_out=True)
        return float(self.rollouts(examples, 1, greedy).reward_B.mean())

    def warm_up(self, steps: int = WARM) -> None:
        """Some supervised steps on right answers; then the reference is what this gave."""
        for step in range(steps):
            examples = TASK.examples(64, seed=10_000 + 1000 * self.seed + step)
            prompts = [ALPHABET.encode(example.prompt) for example in examples]
            answers = [[*ALPHABET.encode(example.answer), ALPHABET.end] for example in examples]
            count = len(examples)
            self.trainer.imitate(
                build(prompts, answers, None, [1.0] * count, list(range(count)), ended=[True] * count, limit=LIMIT)
            )

    def step(self, number: int) -> dict[str, float]:
        batch, missing, parts = None, PROMPTS, list[Batch]()
        while missing:
            examples = TASK.examples(missing, seed=100_000 * (self.seed + 1) + 10 * number + len(parts))
            parts.append(self.rollouts(examples, GROUP))
            if not self.trainer.algorithm.dynamic:
                return self.trainer.train(parts[0])
            batch, missing = refill(parts, PROMPTS)
            missing = missing if len(parts) < 4 else 0
        assert batch is not None
        return self.trainer.train(batch)


def warmed(at: Path, algorithm: Algorithm, seed: int = 0) -> str:
    """A checkpoint of the model behind its warm-up."""
    course = Course(Trainer(folder(at / "random"), algorithm, replace(SETTINGS, seed=seed)), seed)
    course.warm_up()
    course.trainer.save(str(at / "warm"))
    return str(at / "warm")


def learnt(path: str, name: str, settings: Settings, steps: int = 80, seed: int = 0, every: int = 10) -> list[float]:
    """Held-out rewards before learning and after every so many steps, up to the first of at least 0.9."""
    course = Course(Trainer(path, ALGORITHMS[name], replace(settings, seed=seed)), seed)
    found = [course.held_out()]
    for number in range(steps):
        figures = course.step(number)
        if figures["mismatch_max"] > 1e-3:
            raise RuntimeError(
                f"log-probabilities of step {number} are {figures['mismatch_max']} nats from the sampled"
            )
        if (number + 1) % every == 0:
            found.append(course.held_out())
            if found[-1] >= 0.9:
                break
    return found


def main() -> None:
    for seed in range(3):
        with tempfile.TemporaryDirectory() as at:
            path = warmed(Path(at), ALGORITHMS["grpo"], seed)
            for name in (*ALGORITHMS, "lora"):
                settings, start = (LORA, LEARNT)[name != "lora"], time.process_time()
                found = learnt(path, "grpo" if name == "lora" else name, settings, seed=seed, every=5)
                seconds = time.process_time() - start
                told = f"{found[0]:.2f} to {found[-1]:.2f} in {5 * len(found) - 5} steps"
                print(f"{name} seed {seed}: {told}, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()

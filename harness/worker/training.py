"""The trainer as a process of its own, one rank of several or alone: it asks, learns, and sends its weights.

`python -m harness.worker.training NAME INCOMING OUTGOING`.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.efficiency import training_flops, unsupported
from harness.rollouts import Layout, Rollouts
from harness.worker.__main__ import serve
from harness.worker.flat import Piece, Slot
from harness.worker.sender import Sender
from harness.worker.talks import Talks
from harness.worker.transports import disk

AGAIN, REFILLS = 1_000_003, 3  # seeds of more prompts lie so far apart; times that more are asked for
NOISE = 0.01  # of the weights that a proof wants to differ


class Training(Sender):
    """A `trainers.Trainer` and the task that it learns. Steps are numbered; each is asked, answered, and learnt."""

    trainer: Any
    task: Any
    codec: Any

    def __init__(self) -> None:
        super().__init__()
        self.talks: dict[int, list[Talks]] = {}  # by step; several where more was asked for

    def hold(
        self, model: str, algorithm: str, changes: dict[str, Any], settings: dict[str, Any], task: str,
        options: dict[str, Any], warm_up: dict[str, Any], dtype: str, device: str, rank: int, ranks: int, meeting: str,
    ) -> dict[str, Any]:  # fmt: skip
        """`changes`: fields of the algorithm, and `kl`, its coefficient; `settings`: of `trainers.settings.Settings`,
        `rate`, `betas`, `lora` (a rank) and `merged` besides; `options`: fields of the task; `warm_up`: of `imitate`;
        `meeting`: a file for several ranks."""
        import torch

        from trainers.algorithms import ALGORITHMS
        from trainers.fsdp import join
        from trainers.tasks import TASKS
        from trainers.tasks.codecs import suited
        from trainers.trainer import Trainer

        self.rank, self.ranks, self.device = rank, ranks, device
        self.dtype = getattr(torch, dtype)
        joined = join(rank, ranks, f"file://{meeting}", device.partition(":")[0]) if ranks > 1 else None
        found = ALGORITHMS[algorithm]
        kl = replace(found.kl, coefficient=changes.pop("kl", found.kl.coefficient))
        found = replace(found, kl=kl, **changes)
        self.trainer = Trainer(model, found, chosen(settings | {"dtype": dtype}), device, joined)
        self.task = TASKS[task](**options)
        self.config = json.loads(Path(model, "config.json").read_text())
        self.codec = suited(model, self.config["vocab_size"], words=task == "gsm8k")
        self.slots = [Slot(*slot) for slot in self.trainer.policy.held.slots]
        self.pieces = [Piece(*piece) for piece in self.trainer.policy.held.pieces]
        self.buffer = self.trainer.policy.held.buffer
        if warm_up:
            self.imitate(**warm_up)
        return self.held()

    def imitate(self, steps: int, prompts: int, rate: float) -> None:
        """A supervised warm-up: some steps of that rate towards right answers, so that a random model begins with more
        than noise; the model that comes of it is the reference."""
        groups = self.trainer.policy.optimiser.adam.param_groups
        before = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = rate
        for step in range(steps):
            talks = Talks(self.task, self.codec, self.task.examples(prompts, -1 - step), 1, 0, 0, step)
            for talk in talks.talks:
                right = [*self.codec.encode(talk.example.answer), self.codec.end]
                talk.say(right, [0.0] * len(right), own=True)
                talk.outputs.append(talk.example.answer)
                talk.ended = True
            talks.limit = max(len(talk.ids) for talk in talks.talks)
            self.trainer.imitate(talks.batch())
        for group, learning in zip(groups, before, strict=True):
            group["lr"] = learning
        if not self.trainer.settings.lora:
            self.trainer.anchor()

    def begin(
        self, step: int, prompts: int, samples: int, limit: int, input_tokens: int, path: str, held_out: bool = False
    ) -> Layout:
        """Write the requests of a step's first turn; their layout."""
        asked = self.talks.setdefault(step, [])
        seed = step + len(asked) * AGAIN
        examples = self.task.examples(prompts, seed, held_out=held_out)
        asked.append(Talks(self.task, self.codec, examples, samples, limit, input_tokens, seed, held_out))
        return asked[-1].requests().save(Path(path))

    def go_on(self, step: int, rollouts: str, layout: Layout, path: str) -> Layout | None:
        """Take in what was generated, and write the requests of the next turn, or of more prompts where the algorithm
        drops groups and wants others; None where all is said."""
        talks = self.talks[step][-1]
        if talks.take(Rollouts.load(Path(rollouts), layout)):
            return talks.requests().save(Path(path))
        if talks.held_out or not self.trainer.algorithm.dynamic or len(self.talks[step]) > REFILLS:
            return None
        if missing := self._batch(step)[1]:
            return self.begin(step, missing, talks.samples, talks.limit, talks.input_tokens, path)
        return None

    def _batch(self, step: int) -> tuple[Any, int]:
        """What a step is learnt from, and how many prompts are missing."""
        from trainers.algorithms import refill
        from trainers.batch import join

        parts = [talks.batch() for talks in self.talks[step]]
        if not self.trainer.algorithm.dynamic:
            return parts[0], 0
        found, missing = refill(parts, self.talks[step][0].prompts)
        return found if found is not None else join(parts), missing

    def score(self, step: int) -> float:
        """The mean reward of a step that is not learnt from."""
        (talks,) = self.talks.pop(step)
        rewards = talks.rewards()
        return sum(rewards) / len(rewards)

    def learn(self, step: int) -> dict[str, float]:
        """`trainers.Trainer.train`'s figures of a step, `reward_s`, the seconds of making its batch, among them."""
        start = time.perf_counter()
        batch, _ = self._batch(step)
        rewards = [reward for talks in self.talks.pop(step) for reward in talks.rewards()]
        seconds = time.perf_counter() - start
        found = dict(self.trainer.train(batch))
        return found | self._work(batch) | {"reward": sum(rewards) / len(rewards), "reward_s": seconds}

    def _work(self, batch: Any) -> dict[str, float]:
        """Model FLOPs of the forward and backward passes over a batch, where this model's are counted."""
        if unsupported(self.config):
            return {}
        prompt_B, own_B, trainer = batch.length_B - batch.own_B, batch.own_B, self.trainer
        alone = trainer.settings.lora is not None
        found = training_flops(self.config, prompt_B, own_B, adapter=alone, critic=trainer.critic is not None)
        return {"flops": found * trainer.settings.epochs}

    def agree(self, step: int) -> dict[str, float]:
        """How far the engine's log-probabilities of a step's answers are from those of the weights as they are now."""
        from trainers.losses import mismatch

        (talks,) = self.talks.pop(step)
        batch = talks.batch()
        now_BT, _ = self.trainer.logprobs(batch)
        return mismatch(now_BT.cpu(), batch.sampled_BT, batch.mask_BT)

    def write(self, folder: str) -> None:
        """Write the adapter for the engine; all ranks must."""
        self.trainer.write_adapter(folder)

    def offload(self) -> dict[str, float]:
        return dict(self.trainer.offload())

    def onload(self) -> dict[str, float]:
        return dict(self.trainer.onload())

    def update(self, step: int | None) -> float:
        """For a proof: the weights that are sent become others, by noise of that step; 0 leaves them. Masters stay as
        they are, which may be away."""
        import torch

        if step:
            generator = torch.Generator(self.device).manual_seed(step % (1 << 31) + self.rank)
            with torch.no_grad():
                for one in self._sent():
                    noise = torch.randn(one.shape, generator=generator, device=one.device, dtype=one.dtype)
                    one.add_(noise, alpha=NOISE)
            self._fence()
        return 0.0

    def _sent(self) -> list[Any]:
        """What a sync brings into the engine: the adapter where that goes alone, else this rank's weights."""
        from trainers.fsdp import local
        from trainers.lora import named

        chosen = self.trainer.settings.lora
        if chosen and not chosen.merged:
            return [local(parameter) for _, parameter in named(self.trainer.policy.network.hf)]
        spans = (slice(piece.local, piece.local + piece.bytes) for piece in self.pieces)
        return [self.buffer[span].view(self.dtype) for span in spans]

    def checkpoint(self, step: int, folder: str, model: str) -> None:
        """Write the weights as they are now, whole; all ranks must."""
        named = self.trainer.policy.tensors()
        if self.rank == 0:
            disk.write(named.items(), Path(folder), model)

    def close(self) -> None:
        del self.buffer, self.trainer


def chosen(settings: dict[str, Any]) -> Any:
    """`trainers.settings.Settings` of what JSON can say."""
    from trainers.lora import Lora
    from trainers.optimiser import AdamW
    from trainers.settings import Settings

    rank, merged = settings.pop("lora", 0), settings.pop("merged", True)
    more: dict[str, Any] = {"lora": Lora(rank=rank, alpha=2 * rank, merged=merged) if rank else None}
    if steps := {name: settings.pop(name) for name in ("rate", "betas") if name in settings}:
        more |= {"optimiser": AdamW(**steps), "critic": AdamW(**steps)}
    return Settings(**settings, **more)


if __name__ == "__main__":
    serve(Training(), int(sys.argv[2]), int(sys.argv[3]))

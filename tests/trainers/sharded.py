"""What the ranks of test_fsdp.py do, each in a process of its own, and what one does alone."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.trainers.small import batch
from trainers import fsdp
from trainers.algorithms import ALGORITHMS
from trainers.fsdp import Ranks
from trainers.lora import Lora
from trainers.optimiser import AdamW
from trainers.settings import Settings
from trainers.trainer import Trainer

STEPS = 3


@dataclass(frozen=True)
class Case:
    """near: how far two ranks may be from one, after some steps."""

    kind: str
    algorithm: str
    settings: Settings
    near: float = 2e-5


SMALL = Settings(dtype="float32", budget=40, optimiser=AdamW(rate=3e-3), critic=AdamW(rate=3e-3))
CASES = {
    "dense": Case("qwen2", "grpo", SMALL),
    "experts": Case("qwen3_moe", "ppo", SMALL),
    "lora": Case("qwen3", "grpo", Settings(**vars(SMALL) | {"lora": Lora(4, 8, ("q_proj", "o_proj"))})),
    "layerwise": Case("qwen2", "ppo", Settings(**vars(SMALL) | {"layerwise": True})),
    "layerwise_lora": Case("qwen3", "grpo", Settings(**vars(SMALL) | {"layerwise": True, "lora": Lora(4, 8)})),
    "bfloat16": Case("llama", "dapo", Settings(**vars(SMALL) | {"dtype": "bfloat16", "checkpointing": True}), 2e-2),
}


def trained(case: Case, model: str, ranks: Ranks | None = None) -> tuple[Trainer, torch.Tensor]:
    """The trainer and the figures of its steps, without what a clock says; it is offloaded on the way."""
    trainer = Trainer(model, ALGORITHMS[case.algorithm], case.settings, ranks=ranks)
    told = []
    for seed in range(STEPS):
        figures = trainer.train(batch(seed))
        told.append([value for name, value in sorted(figures.items()) if not name.endswith("_s")])
        trainer.offload()
        trainer.onload()
    return trainer, torch.tensor(told)


def main(rank: int, count: int, folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = fsdp.join(rank, count, f"file://{folder}/meet", "cpu")
    for name, case in CASES.items():
        trainer, figures = trained(case, str(folder / case.kind), ranks)
        pieces = torch.tensor([list(piece) for piece in trainer.policy.held.pieces])
        found = {"figures": figures, "buffer": trainer.weights()[0], "pieces": pieces}
        found |= {f"whole.{key}": tensor for key, tensor in trainer.policy.tensors().items()}
        trainer.save(str(folder / f"{name}-saved"))
        if case.settings.lora:
            trainer.write_adapter(str(folder / f"{name}-adapter"))
        save_file({key: one.contiguous() for key, one in found.items()}, folder / f"{name}-{rank}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

"""What a rank of several does in test_fsdp.py, in a process of its own."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.trainers.small import batch
from trainers import fsdp
from trainers.algorithms import ALGORITHMS
from trainers.lora import Lora
from trainers.optimiser import AdamW
from trainers.settings import Settings
from trainers.trainer import Trainer

STEPS = 3
LORA = Lora(rank=4, alpha=8, targets=("q_proj", "o_proj"))


def settings(lora: bool = False, **changes: object) -> Settings:
    found: dict[str, object] = {
        "dtype": "float32", "budget": 40, "optimiser": AdamW(rate=1e-2), "critic": AdamW(rate=1e-2),
        "lora": LORA if lora else None,
    }  # fmt: skip
    return Settings(**(found | changes))  # type: ignore[arg-type]


def steps(trainer: Trainer) -> torch.Tensor:
    """Figures of some steps, without what a clock says."""
    told = [trainer.train(batch(seed)) for seed in range(STEPS)]
    return torch.tensor([[v for k, v in sorted(one.items()) if not k.endswith(("_s", "_bytes"))] for one in told])


def main(rank: int, count: int, model: str, algorithm: str, lora: bool, folder: str) -> None:
    torch.set_num_threads(1)
    ranks = fsdp.join(rank, count, f"file://{folder}/meet", "cpu")
    trainer = Trainer(model, ALGORITHMS[algorithm], settings(lora), ranks=ranks)
    found = {"figures": steps(trainer)}
    trainer.offload()
    trainer.onload()
    found["after"] = steps(trainer)
    found |= {"buffer": trainer.weights()[0], "pieces": torch.tensor([list(p) for p in trainer.policy.held.pieces])}
    found |= {f"whole.{name}": tensor for name, tensor in trainer.policy.tensors().items()}
    trainer.save(f"{folder}/saved")
    if lora:
        trainer.write_adapter(f"{folder}/adapter")
    save_file({name: one.contiguous() for name, one in found.items()}, Path(folder, f"{rank}.safetensors"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5] == "lora", sys.argv[6])

"""A stand-in for a trainer of a LoRA adapter: it makes one in PEFT's format, writes it where an engine reads it, and
merges it into weights, as a trainer does that sends no adapter (`harness.worker.holder` holds such weights).

`python -m harness.worker.adapter NAME INCOMING OUTGOING`. W' = W + scale * B A, with A (rank, in) and B (out, rank).
"""

import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.worker.__main__ import serve
from harness.worker.options import LORA_TARGETS

Tensor = Any  # torch.Tensor: torch is imported only where an engine's environment has it

ALPHA = 2  # alpha over rank: PEFT's scale, not 1 so that an engine that forgets it is noticed
STRENGTH = 0.5  # of a merged matrix's change, against the matrix: outputs must differ beyond rounding
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def of_weight(name: str) -> tuple[str, str]:
    """Names of the A and the B that change a weight of a checkpoint."""
    module = f"base_model.model.{name.removesuffix('.weight')}"
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def shapes(
    weights: Iterable[tuple[str, Sequence[int]]], rank: int, targets: Sequence[str] = LORA_TARGETS
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of an adapter's tensors for the weights of a checkpoint (names and shapes) that are targets."""
    for name, shape in weights:
        if name.endswith(".weight") and name.split(".")[-2] in targets:
            first, second = of_weight(name)
            yield first, (rank, shape[1])
            yield second, (shape[0], rank)


def write(adapter: Mapping[str, Tensor], folder: Path, rank: int, targets: Sequence[str] = LORA_TARGETS) -> None:
    """A PEFT folder. The file is replaced, not overwritten: an engine may still look into the last one."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": ALPHA * rank, "lora_dropout": 0.0,
        "target_modules": list(targets), "bias": "none", "fan_in_fan_out": False, "use_rslora": False,
        "use_dora": False, "modules_to_save": None, "base_model_name_or_path": None,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    save_file({name: tensor.cpu() for name, tensor in adapter.items()}, folder / ".tmp", {"format": "pt"})
    (folder / ".tmp").replace(folder / WEIGHTS)


def merged(
    weights: Iterable[tuple[str, Tensor]], adapter: Mapping[str, Tensor], scale: float = ALPHA
) -> Iterator[tuple[str, Tensor]]:
    """The weights with the adapter in them, each rounded once; those that it does not change as they are."""
    for name, weight in weights:
        first, second = of_weight(name)
        if first in adapter:
            one, two = adapter[first].to(weight.dtype), adapter[second].to(weight.dtype)
            yield name, weight.addmm(two, one, alpha=scale)
        else:
            yield name, weight


class Adapter:
    """An adapter for the weights given; each `update` is another random one, on the device when it returns."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.rank, self.targets = 0, tuple[str, ...]()

    def hold(
        self,
        tensors: list[tuple[str, list[int]]],
        rank: int,
        dtype: str,
        device: str,
        targets: Sequence[str] = LORA_TARGETS,
    ) -> dict[str, Any]:
        """`tensors`: names and shapes of the model's checkpoint. Raises ValueError where none is a target."""
        import torch

        self.rank, self.targets = rank, tuple(targets)
        found = dict(shapes(tensors, rank, targets))
        if not found:
            raise ValueError(f"no weight of the model is one of {', '.join(targets)}")
        self.tensors = {k: torch.empty(v, dtype=getattr(torch, dtype), device=device) for k, v in found.items()}
        self.update(0)
        return {"bytes": sum(t.nbytes for t in self.tensors.values()), "tensors": len(found), "scale": ALPHA}

    def update(self, step: int | None) -> None:
        """The adapter of another step: a merged weight's change is STRENGTH times as large as the weight. None: one
        that changes nothing, as before the first step of a training."""
        import torch

        generator = torch.Generator(next(iter(self.tensors.values())).device).manual_seed(step or 0)
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                first = name.endswith(".lora_A.weight")
                scale = 1 / math.sqrt(tensor.shape[1]) if first else STRENGTH / (ALPHA * math.sqrt(self.rank))
                tensor.normal_(0.0, scale, generator=generator)
                if step is None and not first:
                    tensor.zero_()
        if generator.device.type == "cuda":
            torch.cuda.synchronize()

    def write(self, folder: str) -> None:
        """Write the adapter as a PEFT folder, in shared memory or on a disk; it is there when this returns."""
        write(self.tensors, Path(folder), self.rank, self.targets)

    def merge(self, model: str, folder: str) -> None:
        """Write a checkpoint of a model folder's weights with the adapter in them."""
        from safetensors.torch import load_file, save_file

        shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        for file in Path(model).glob("*.safetensors"):
            found = load_file(file, device=str(next(iter(self.tensors.values())).device))
            whole = {name: tensor.cpu() for name, tensor in merged(found.items(), self.tensors)}
            save_file(whole, Path(folder, file.name), {"format": "pt"})

    def close(self) -> None:
        self.tensors.clear()


if __name__ == "__main__":
    serve(Adapter(), int(sys.argv[2]), int(sys.argv[3]))

"""LoRA by PEFT: low-rank changes of a model's matrices that learn in their stead (Hu et al. 2021, arXiv:2106.09685).

W' = W + scale * B A, with A (rank, in), B (out, rank) and scale = alpha / rank. An engine gets either the weights with
the change in them, from the buffer that all weights are sent from, or the adapter as a PEFT folder.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

NAME = "default"  # of the adapter inside PEFT
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Lora:
    """alpha: scale times rank. path: a PEFT folder to go on from; else A is random, of that seed, and B is 0. merged:
    whether the engine gets merged weights, so that these have a copy of their own."""

    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = TARGETS
    merged: bool = True
    path: str = ""
    seed: int = 0

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class Change(NamedTuple):
    """The parameters that stand for one tensor of the checkpoint: W, A and B."""

    base: nn.Parameter
    first: nn.Parameter
    second: nn.Parameter


def inject(model: Any, lora: Lora) -> None:
    """Put an adapter into a model, which then learns nothing else; as PEFT begins it, it changes nothing.

    Raises ValueError, with what is wrong, for one that does not fit the model.
    """
    from peft import LoraConfig, inject_adapter_in_model

    _check(model, lora)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), lora_dropout=0.0, bias="none",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # PEFT begins it on the host
        torch.manual_seed(lora.seed)
        inject_adapter_in_model(config, model, adapter_name=NAME)
        _made_real(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.to(next(model.parameters()).dtype)
    if lora.path:
        _resume(model, lora)


def _made_real(model: Any) -> None:
    """Begin, on the host, an adapter that PEFT left without memory, as it does beside a matrix without any."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer) and module.lora_A[NAME].weight.is_meta:
            for part in (module.lora_A[NAME], module.lora_B[NAME]):
                part.to_empty(device="cpu")
            module.reset_lora_parameters(NAME, True)  # type: ignore[no-untyped-call]


def _check(model: Any, lora: Lora) -> None:
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    ends = {name.rpartition(".")[2] for name in linear}
    if missing := [target for target in lora.targets if target not in ends]:
        raise ValueError(
            f"the adapter does not fit model type {model.config.model_type}: it has no matrix {', '.join(missing)}, "
            f"but {', '.join(sorted(ends))}"
        )
    if lora.rank < 1:
        raise ValueError(f"an adapter of rank {lora.rank}: give at least 1")
    embedding = model.get_input_embeddings().weight
    for name, module in linear.items():
        if name.rpartition(".")[2] in lora.targets and module.weight is embedding:
            raise ValueError(f"the adapter's target {name} is tied to the embedding: leave it out")


def _resume(model: Any, lora: Lora) -> None:
    from safetensors.torch import load_file

    folder = Path(lora.path)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ValueError(f"adapter folder {folder} holds no {file}")
    config = json.loads((folder / CONFIG).read_text())
    stated = (config.get("r"), config.get("lora_alpha"), sorted(config.get("target_modules") or ()))
    if stated != (lora.rank, lora.alpha, sorted(lora.targets)):
        raise ValueError(f"adapter folder {folder} has rank, alpha and targets {stated}: ask for these")
    found, own = load_file(folder / WEIGHTS), dict(named(model))
    wrong = [
        f"{name} {list(found[name].shape) if name in found else 'is not there'}"
        for name in sorted(found.keys() | own.keys())
        if name not in found or name not in own or found[name].shape != own[name].shape
    ]
    if wrong:
        raise ValueError(f"adapter folder {folder} does not fit the model: {wrong[0]}, and {len(wrong) - 1} more")
    for name, parameter in own.items():
        parameter.data.copy_(found[name])


def named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The adapter's parameters by their names in a PEFT folder."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            yield f"base_model.model.{name.replace(f'.{NAME}.', '.')}", parameter


def write(adapter: Mapping[str, Tensor], lora: Lora, folder: Path) -> None:
    """A PEFT folder. The file is replaced, not overwritten: an engine may still look into the last one."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": 0.0,
        "target_modules": list(lora.targets), "bias": "none", "fan_in_fan_out": False, "use_rslora": False,
        "use_dora": False, "modules_to_save": None, "base_model_name_or_path": None,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.items()},
        folder / ".tmp",
        {"format": "pt"},
    )
    (folder / ".tmp").replace(folder / WEIGHTS)


def changes(parameters: Mapping[str, nn.Parameter], adapter: Mapping[str, nn.Parameter]) -> dict[str, Change]:
    """What changes which tensor of the checkpoint. parameters: the model's by the checkpoint's names; adapter:
    `named`."""
    found = {}
    for name, base in parameters.items():
        at = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{at}.lora_A.weight" in adapter:
            found[name] = Change(base, adapter[f"{at}.lora_A.weight"], adapter[f"{at}.lora_B.weight"])
    return found


@torch.no_grad()
def merge(into: Tensor, base: Tensor, first: Tensor, second: Tensor, scale: float) -> None:
    """Write W + scale * B A, summed in float32; `base`, `second` and `into` may be the same rows of all."""
    into.copy_(torch.addmm(base.float(), second.float(), first.float(), alpha=scale))


def enabled(model: nn.Module, on: bool) -> None:
    """Switch the adapter off, for the model that it began from, or on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module._disable_adapters = not on  # its own method would freeze the adapter's parameters too

"""A model that no device holds whole: made empty, and filled a layer at a time, of which each rank keeps its rows."""

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainers import names

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"


def bare(path: str) -> bool:
    """Whether it is a folder with a configuration and no weights."""
    return Path(path).is_dir() and not any(one.suffix in (".safetensors", ".bin") for one in Path(path).iterdir())


def emptied(config: Any, dtype: torch.dtype, attention: str) -> Any:
    """A model of transformers whose parameters have shapes and no memory; its buffers are whole."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        made = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation=attention
        )
    made.tie_weights()  # which emptying has torn
    return made


class Filler:
    """What the parameters of an emptied model are to be.

    path: a checkpoint's folder or its name at a hub, which is read tensor by tensor; a folder without weights gives
    random ones of `seed`, the same however many ranks there are: matrices normal with the configuration's
    `initializer_range`, in `dtype`, norms 1, biases 0. Raises ValueError for a checkpoint that is no safetensors, and
    where one lacks a tensor.
    """

    def __init__(self, hf: Any, path: str, dtype: torch.dtype, seed: int) -> None:
        self.names = {id(parameter): name for name, parameter in names.ordered(hf).items()}
        self.dtype, self.seed = dtype, seed
        self.spread = float(getattr(hf.config, "initializer_range", 0.02))
        self.files = {} if bare(path) else _files(path)

    def fill(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Give all parameters of a module that are not shared out yet memory on the device, in `dtype`, and their
        values; those that have values keep them."""
        done = dict[int, nn.Parameter]()
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is None or isinstance(parameter, DTensor):
                    continue
                if id(parameter) not in done:
                    value = self._value(parameter, device) if parameter.is_meta else parameter.detach()
                    value = value.to(device=device, dtype=dtype)
                    done[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
                part._parameters[name] = done[id(parameter)]

    def _value(self, parameter: nn.Parameter, device: torch.device) -> Tensor:
        name = self.names.get(id(parameter))
        if name is None:  # a critic's head
            return torch.zeros(parameter.shape)
        if self.files:
            found = [self._read(part) for part, _ in names.parts(name, parameter.shape)]
            return found[0] if len(found) == 1 else torch.cat([one.flatten() for one in found]).view(parameter.shape)
        if parameter.dim() == 1:
            return torch.full(parameter.shape, float(name.endswith("weight")))
        random = torch.Generator(device).manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        value = torch.empty(parameter.shape, device=device).normal_(0.0, self.spread, generator=random)
        return value.to(self.dtype)

    def _read(self, name: str) -> Tensor:
        from safetensors import safe_open

        if name not in self.files:
            raise ValueError(f"the checkpoint has no tensor {name}")
        with safe_open(self.files[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


def _files(path: str) -> dict[str, Path]:
    """The file that holds each tensor of a checkpoint."""
    from safetensors import safe_open

    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(path, allow_patterns=["*.safetensors", INDEX]))
    if (folder / INDEX).is_file():
        found: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
        return {name: folder / file for name, file in found.items()}
    if not (folder / WHOLE).is_file():
        raise ValueError(f"checkpoint {path} holds neither {WHOLE} nor {INDEX}: it cannot be read a layer at a time")
    with safe_open(folder / WHOLE, "pt") as file:
        return dict.fromkeys(file.keys(), folder / WHOLE)

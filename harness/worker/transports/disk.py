"""Disk: the sender writes a checkpoint of safetensors, which the engine's own loader reads."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.worker.flat import Slot, views

Address = dict[str, Any]


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    """A folder for the checkpoint; `model`, a folder with the model's configuration, is added by who knows it."""
    return {"path": str(Path(folder, "checkpoint"))}


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> None:
    from safetensors.torch import save_file

    path = Path(address["path"])
    if not path.is_dir():
        shutil.copytree(address["model"], path, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = {name: tensor.cpu() for name, tensor in views(buffer, slots, dtype)}
    save_file(tensors, path / ".model.safetensors.tmp", {"format": "pt"})
    (path / ".model.safetensors.tmp").replace(path / "model.safetensors")


def opened(address: Address, device: Any) -> None:
    """The engine reads the checkpoint itself."""


def closed(buffer: None) -> None:
    """There is no buffer."""

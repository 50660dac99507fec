"""Disk: the sender writes a checkpoint of safetensors, which the engine's own loader reads."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.worker.flat import Slot, views

TOGETHER = False
ON_DISK = True
Address = dict[str, Any]


def offer(buffer: Any, slots: Sequence[Slot], dtype: Any, folder: str) -> Address:
    """A folder for the checkpoint; `model`, a folder with the model's configuration, is added by who knows it. Raises
    OSError where the checkpoint does not fit."""
    room(folder, buffer.numel())
    return {"path": str(Path(folder, "checkpoint"))}


def room(folder: str, size: int) -> None:
    """Raises OSError where a folder's file system has not so many bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(f"{folder} has {free >> 20} MiB free, the weights take {size >> 20}")


def send(buffer: Any, slots: Sequence[Slot], dtype: Any, address: Address) -> None:
    if address["senders"] != 1:
        raise ValueError("a checkpoint is written by one sender that holds whole tensors, not by several with shards")
    write(views(buffer, slots, dtype), Path(address["path"]), address["model"])


def write(named: Iterable[tuple[str, Any]], folder: Path, model: str) -> None:
    """A checkpoint of these tensors beside a model's configuration; readers never see half of one."""
    from safetensors.torch import save_file

    if not folder.is_dir():
        shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file({name: tensor.cpu() for name, tensor in named}, folder / ".model.safetensors.tmp", {"format": "pt"})
    (folder / ".model.safetensors.tmp").replace(folder / "model.safetensors")


def opened(addresses: Sequence[Address], device: Any, rank: int) -> None:
    """The engine reads the checkpoint itself."""

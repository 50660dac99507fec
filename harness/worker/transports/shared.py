"""Handles on memory that another process maps, and how they are written down."""

import base64
from typing import Any


def written(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def read(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def alias(buffer: Any) -> Any:
    """The same memory behind a storage of its own, on a GPU. torch wraps a storage once more for every handle it gives,
    and unwraps it all when it is freed: thousands of handles on one that lives on would end in a stack too deep."""
    import torch

    return torch.from_dlpack(buffer) if buffer.is_cuda else buffer

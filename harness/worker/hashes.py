"""Hashes of a model's parameters that know the order of their elements: what a sync is proved by."""

from typing import Any

import torch

Tensor = Any  # torch.Tensor, which the light environment does not know


def distinct(model: Any) -> dict[str, Tensor]:
    """Parameters by name, those that share memory (tied embeddings) once."""
    seen = set[int]()
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.data_ptr() not in seen and parameter.numel():
            seen.add(parameter.data_ptr())
            found[name] = parameter.data
    return found


def hashes(model: Any, chunk: int = 1 << 22) -> dict[str, int]:
    """Of each parameter a 64-bit sum of its elements' bits, each weighted by its position: order counts."""
    return {name: hashed(parameter, chunk) for name, parameter in distinct(model).items()}


def hashed(tensor: Tensor, chunk: int = 1 << 22) -> int:
    """The position-weighted sum of one tensor, chunk by chunk so that little memory is taken."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    flat = tensor.detach().contiguous().view(bits).view(-1)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    weights = torch.arange(1, min(chunk, flat.numel()) + 1, dtype=torch.int64, device=tensor.device)
    weights = weights * -7046029254386353131 ^ (weights >> 7)  # odd constant: 2^64 over the golden ratio
    for begin in range(0, flat.numel(), chunk):
        part = flat[begin : begin + chunk].long()
        total = (total * 6364136223846793005 + ((part + 1) * weights[: part.numel()]).sum()) + begin
    return int(total)

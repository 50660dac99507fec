"""A network's parameters as views of one buffer, with their float32 masters and gradients in buffers beside it.

What a receiver of weights opens is what the network computes with: a sync packs nothing. Float32 parameters are their
own masters; below that, masters are a buffer of their own, gradients are summed in float32, and `publish` rounds the
masters into the parameters in place.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from trainers.flat import Piece, Slot, Stored, extent, shares


class Held(Protocol):
    """A rank's parameters, whole or its share of them.

    buffer: uint8, in the checkpoint's layout (`slots`), of which it holds `pieces`; what is sent. masters: what an
    optimiser steps, float32, by name.
    """

    buffer: Tensor
    slots: list[Slot]
    pieces: list[Piece]
    masters: dict[str, Tensor]

    def collect(self) -> None:
        """Have the masters' `.grad` be what the backward passes since `clear` left."""

    def publish(self) -> None:
        """Bring the masters into the parameters and the buffer."""

    def clear(self) -> None:
        """Make the gradients zero."""

    def moved(self) -> list[Tensor]:
        """What only training needs and must be kept."""

    def dropped(self) -> list[Tensor]:
        """What only training needs and is zero between steps."""

    def gathered(self) -> Tensor:
        """The whole checkpoint's buffer, on every rank: all must ask."""


class Arena:
    """Parameters of one dtype in one buffer, laid out as `stored` says; a `Held`.

    Without `learns` there are no masters. Raises ValueError for a stack of tensors that the alignment tears apart.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        stored: Sequence[Stored],
        dtype: torch.dtype,
        device: torch.device,
        learns: bool = True,
    ) -> None:
        self.slots = [slot for place in stored for slot in place.slots]
        self.pieces = [piece for pieces in shares(stored, 0, 1) for piece in pieces]
        self.dtype, self.masters = dtype, dict[str, Tensor]()
        self.buffer = torch.zeros(extent(self.slots), dtype=torch.uint8, device=device)
        values = self.buffer.view(dtype)
        self.apart = learns and dtype is not torch.float32  # masters apart from the parameters
        self.values = torch.zeros_like(values, dtype=torch.float32) if self.apart else values
        self.gradients = torch.zeros_like(values, dtype=torch.float32) if learns else None
        for (name, parameter), place in zip(parameters.items(), stored, strict=True):
            span = _span(name, parameter, place, dtype)
            self.values[span].view(parameter.shape).copy_(parameter.data)
            if self.apart:
                values[span].view(parameter.shape).copy_(parameter.data)
            parameter.data = values[span].view(parameter.shape)
            if learns:
                self._learn(name, parameter, span)

    def _learn(self, name: str, parameter: nn.Parameter, span: slice) -> None:
        """Have a master step for it, and backward passes add to that one's gradient."""
        assert self.gradients is not None
        self.masters[name] = master = self.values[span].view(parameter.shape)
        master.grad = self.gradients[span].view(parameter.shape)
        if self.apart:
            parameter.register_post_accumulate_grad_hook(_summed_into(master.grad))  # type: ignore[no-untyped-call]
        else:
            parameter.grad = master.grad

    def collect(self) -> None:
        pass  # backward passes add to them at once

    def publish(self) -> None:
        if self.apart:
            self.buffer.view(self.dtype).copy_(self.values)

    def clear(self) -> None:
        if self.gradients is not None:
            self.gradients.zero_()

    def moved(self) -> list[Tensor]:
        return [self.values] if self.apart else []

    def dropped(self) -> list[Tensor]:
        return [] if self.gradients is None else [self.gradients]

    def gathered(self) -> Tensor:
        return self.buffer


def _span(name: str, parameter: nn.Parameter, place: Stored, dtype: torch.dtype) -> slice:
    """Where the buffer has a parameter, in elements."""
    begin, end = place.slots[0].offset, place.slots[-1].offset + place.slots[-1].bytes
    if end - begin != parameter.numel() * dtype.itemsize:
        raise ValueError(
            f"{name}: a tensor of one expert has {place.slots[0].bytes} bytes, no multiple of 16, so that the experts "
            "cannot be one parameter in the checkpoint's layout: choose sizes whose product is one"
        )
    return slice(begin // dtype.itemsize, end // dtype.itemsize)


def _summed_into(gradient: Tensor) -> Callable[[Tensor], None]:
    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient.add_(parameter.grad)
        parameter.grad = None

    return add

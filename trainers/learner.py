"""A network that learns: its parameters in buffers, their optimiser, and where all of it is; and one that does not."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from trainers import fsdp, lora, names
from trainers.flat import views
from trainers.fsdp import Ranks, Shards, local, whole
from trainers.layerwise import Filler
from trainers.lora import Change, Lora
from trainers.model import Backbone, Policy, layers
from trainers.optimiser import AdamW, Optimiser
from trainers.weights import Arena, Held


class Merged:
    """A base that stays and an adapter that learns; a `weights.Held` whose buffer has the changed weights where the
    adapter is to be merged, else the base's."""

    def __init__(
        self, base: Arena | Shards, adapter: Arena | Shards, found: Mapping[str, Change], wanted: Lora
    ) -> None:
        self.base, self.adapter, self.scale = base, adapter, wanted.scale
        self.buffer, self.slots, self.pieces = base.buffer, base.slots, base.pieces
        self.masters = adapter.masters
        self.targets = [(*self._target(name, change), change) for name, change in found.items() if wanted.merged]
        self.publish()

    def _target(self, name: str, change: Change) -> tuple[Tensor, Tensor]:
        """Where the merged rows go, and the base's own."""
        if isinstance(self.base, Shards):
            rows, parts = local(change.base), self.base.parts[name]
            return (parts[0][0].view(rows.shape) if parts else torch.empty_like(rows)), rows
        view = change.base.data
        change.base.data = view.clone()
        return view, change.base.data

    def collect(self) -> None:
        self.adapter.collect()

    def publish(self) -> None:
        self.adapter.publish()
        for into, base, change in self.targets:
            lora.merge(into, base, whole(change.first), local(change.second), self.scale)

    def clear(self) -> None:
        self.adapter.clear()

    def moved(self) -> list[Tensor]:
        """What is sent stays: the merged weights, or the adapter."""
        merged = [self.adapter.buffer, *(base for _, base, _ in self.targets)] if self.targets else []
        return [*self.base.moved(), *self.adapter.moved(), *merged]

    def dropped(self) -> list[Tensor]:
        return self.adapter.dropped()

    def gathered(self) -> Tensor:
        return self.base.gathered()


def _on(network: nn.Module, device: torch.device) -> None:
    """Bring what is no parameter to the device."""
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)


def _spread(
    network: Backbone, dtype: torch.dtype, device: torch.device, ranks: Ranks | None, filler: Filler | None
) -> None:
    """Share a network out over the ranks, and fill it where it is empty."""
    if ranks:
        fsdp.shard(network, layers(network.hf), dtype, ranks, device, filler)
    elif filler:
        filler.fill(network, device, torch.float32)


def _laid(
    parameters: Mapping[str, nn.Parameter], dtype: torch.dtype, device: torch.device, ranks: Ranks | None
) -> Arena | Shards:
    stored = names.stored(parameters, dtype.itemsize)
    if ranks:
        return Shards(parameters, stored, dtype, ranks)
    return Arena(parameters, stored, dtype, device, next(iter(parameters.values())).requires_grad)


def _parameters(network: Backbone) -> dict[str, nn.Parameter]:
    """By the names that a checkpoint has for them; a critic's value head behind."""
    found = names.ordered(network.hf)
    return found | {name: p for name, p in network.named_parameters() if not name.startswith("hf.")}


class Learner:
    """A policy or a critic with its optimiser, on one device or shared out over ranks.

    dtype: what it computes in and what its buffer holds. Raises ValueError for a model that its checkpoint stores
    otherwise than `names` knows, and for an adapter that does not fit.
    """

    def __init__(
        self,
        network: Backbone,
        dtype: torch.dtype,
        device: torch.device,
        settings: AdamW,
        wanted: Lora | None = None,
        ranks: Ranks | None = None,
        filler: Filler | None = None,
    ) -> None:
        self.network, self.dtype, self.lora = network, dtype, wanted
        if isinstance(network, Policy):
            names.check(network.hf, names.ordered(network.hf))
        if wanted:
            lora.inject(network.hf, wanted)
        _spread(network, dtype, device, ranks, filler)
        base = _laid(_parameters(network), dtype, device, ranks)
        self.held: Held = base
        if wanted:
            adapter = dict(lora.named(network.hf))
            found = lora.changes(_parameters(network), adapter)
            self.held = Merged(base, _laid(adapter, dtype, device, ranks), found, wanted)
        _on(network, device)
        self.optimiser = Optimiser(self.held.masters, settings, ranks.group if ranks else None)

    def step(self) -> float:
        """Step by the gradients, bring the outcome into the weights, and forget the gradients; their norm."""
        self.held.collect()
        norm = self.optimiser.step()
        self.held.publish()
        self.held.clear()
        return norm

    def moved(self) -> list[Tensor]:
        return [*self.held.moved(), *self.optimiser.moments().values()]

    def tensors(self) -> dict[str, Tensor]:
        """The checkpoint, whole, on every rank (all must ask)."""
        return dict(views(self.held.gathered(), self.held.slots, self.dtype))

    def adapter(self) -> dict[str, Tensor]:
        """The adapter's tensors by their names in a PEFT folder, whole, on every rank (all must ask)."""
        return {name: whole(parameter).to(self.dtype) for name, parameter in lora.named(self.network.hf)}

    def state(self) -> dict[str, Tensor]:
        """What going on needs besides the model that it began from: this rank's masters and moments."""
        return {f"master.{name}": master for name, master in self.held.masters.items()} | self.optimiser.moments()

    def resume(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Go on from a state, behind its step of that number."""
        for name, master in self.held.masters.items():
            master.copy_(state[f"master.{name}"])
        if steps:
            self.optimiser.resume(state, steps)
        self.held.publish()

    def save(self, folder: Path, write: bool = True) -> None:
        """Write a checkpoint that transformers and the engines read, on the rank that is to; all must call."""
        from safetensors.torch import save_file

        tensors = self.tensors()
        folder.mkdir(parents=True, exist_ok=True)
        if write:
            self.network.hf.config.dtype = self.dtype
            self.network.hf.config.save_pretrained(folder)
            found = {name: one.cpu() for name, one in tensors.items()}
            save_file(found, folder / "model.safetensors", {"format": "pt"})


class Reference:
    """A policy that stays as it is."""

    def __init__(
        self, network: Policy, dtype: torch.dtype, device: torch.device, ranks: Ranks | None = None,
        filler: Filler | None = None,
    ) -> None:  # fmt: skip
        self.network = network.requires_grad_(False)
        _spread(network, dtype, device, ranks, filler)
        self.held = _laid(_parameters(network), dtype, device, ranks)
        _on(network, device)

    def follow(self, policy: Learner) -> None:
        """Become what a policy is now."""
        theirs = _parameters(policy.network)
        with torch.no_grad():
            for name, parameter in _parameters(self.network).items():
                local(parameter).copy_(local(theirs[name]))

    def moved(self) -> list[Tensor]:
        return [local(parameter) for parameter in _parameters(self.network).values()]

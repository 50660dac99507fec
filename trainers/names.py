"""What a checkpoint calls a model's parameters, and the order in which the flat buffer has them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trainers.flat import Slot, Stored, layout

Named = tuple[str, tuple[int, ...]]

# Parameters of transformers that stack what a checkpoint has apart, and the parts of each of their rows.
STACKS = {"experts.gate_up_proj": ("gate_proj", "up_proj"), "experts.down_proj": ("down_proj",)}
# Inside a layer, what engines fuse into one parameter stands next to each other, weights before biases.
ORDER = (
    "input_layernorm.weight", "post_attention_layernorm.weight",
    "q_proj.weight", "k_proj.weight", "v_proj.weight", "q_proj.bias", "k_proj.bias", "v_proj.bias", "o_proj.weight",
    "q_norm.weight", "k_norm.weight", "mlp.gate.weight", "experts.gate_up_proj", "experts.down_proj",
    "gate_proj.weight", "up_proj.weight", "down_proj.weight",
)  # fmt: skip
LAYER = re.compile(r"^(.*?\.\d+)\.")


def parts(name: str, shape: Sequence[int]) -> Iterator[Named]:
    """The tensors of the checkpoint that a parameter is."""
    for stack, members in STACKS.items():
        if name.endswith(stack):
            inner = (shape[1] // len(members), *shape[2:])
            at = name.removesuffix(stack.rpartition(".")[2])
            for row in range(shape[0]):
                yield from ((f"{at}{row}.{member}.weight", inner) for member in members)
            return
    yield name, tuple(shape)


def ordered(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters, tied ones once, layer by layer in ORDER; those that it does not name behind, as the model has
    them. An adapter's are left out, and what it changes keeps its name."""
    found = {n.replace(".base_layer.", "."): p for n, p in model.named_parameters() if ".lora_" not in n}
    layers = {name: match[1] if (match := LAYER.match(name)) else name for name in found}
    first = {layer: index for index, layer in reversed(list(enumerate(layers.values())))}

    def key(name: str) -> tuple[int, int]:
        inside = (index for index, end in enumerate(ORDER) if name.endswith(end))
        return first[layers[name]], next(inside, len(ORDER))

    return {name: found[name] for name in sorted(found, key=key)}


def stored(parameters: Mapping[str, nn.Parameter], itemsize: int) -> list[Stored]:
    """Where the flat space has each parameter, in their order."""
    found = {name: list(parts(name, parameter.shape)) for name, parameter in parameters.items()}
    slots = iter(layout([part for those in found.values() for part in those], itemsize))
    return [
        Stored(parameters[name].shape[0], tuple(next(slots) for _ in those)) for name, those in found.items()
    ]  # fmt: skip


def slots(found: Sequence[Stored]) -> list[Slot]:
    return [slot for parameter in found for slot in parameter.slots]


def check(model: Any, parameters: Mapping[str, nn.Parameter]) -> None:
    """Hold these names against those that transformers writes into a checkpoint. Raises ValueError where they differ:
    the model's parameters are then not laid out as its checkpoint is."""
    from transformers.core_model_loading import revert_weight_conversion

    state = {name: torch.empty(tensor.shape, device="meta") for name, tensor in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", ()) or ())
    written = revert_weight_conversion(model, {name: tensor for name, tensor in state.items() if name not in tied})
    theirs = {(name, tuple(tensor.shape)) for name, tensor in written.items()}
    ours = {part for name, parameter in parameters.items() for part in parts(name, parameter.shape)}
    if ours != theirs:
        name, shape = sorted(ours ^ theirs)[0]
        raise ValueError(
            f"model type {model.config.model_type}: its checkpoint's tensors are not its parameters one by one "
            f"(the first that differs: {name} {list(shape)}): teach trainers/names.py how they map"
        )

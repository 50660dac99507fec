"""What is chosen about training, the algorithm apart."""

from dataclasses import dataclass, field

from trainers.logprobs import CHUNK
from trainers.lora import Lora
from trainers.optimiser import AdamW


@dataclass(frozen=True)
class Settings:
    """dtype: of the weights that are computed with and sent; masters are float32. budget: tokens of a micro-batch.
    pack: sequences one behind the other without padding, by default on a GPU. epochs: times that a batch is gone
    through; minibatches: optimiser steps in each, whose losses are scaled to the whole batch's. temperature: that of
    the rollouts. chunk: tokens whose logits stand in memory at once. entropy: measured even where the loss does not
    need it. attention: its name in transformers, by default the fastest there is. checkpointing: activations are
    computed again in the backward pass. compiled: layers are compiled, and packed rows filled up to the budget.
    layerwise: the model is read or made a layer at a time, for one that no rank holds whole.
    """

    dtype: str = "bfloat16"
    seed: int = 0
    optimiser: AdamW = field(default_factory=AdamW)
    critic: AdamW = field(default_factory=lambda: AdamW(rate=1e-5))
    lora: Lora | None = None
    budget: int = 16384
    pack: bool | None = None
    epochs: int = 1
    minibatches: int = 1
    temperature: float = 1.0
    chunk: int = CHUNK
    entropy: bool = True
    attention: str = ""
    checkpointing: bool = False
    compiled: bool = False
    layerwise: bool = False

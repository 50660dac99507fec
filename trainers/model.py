"""Causal language models of Hugging Face as a policy (log-probabilities of given tokens) and as a critic (values)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainers import attention, layerwise
from trainers.logprobs import CHUNK, logprobs, logprobs_and_entropy
from trainers.micro import Inputs

# What some models do to the logits behind the head, with the value that does nothing.
BEHIND_HEAD = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}


def load(
    path: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    seed: int = 0,
    attention_by: str = "",
    keep: bool = False,
    empty: bool = False,
) -> Any:
    """A model of transformers from a folder or a hub's name, to be trained: no dropout, no cache.

    A folder without weights gives random ones of that seed. attention_by: a name that transformers knows, or
    `attention.VARLEN`; by default the fastest for the device. keep: leave a checkpoint's weights in its own dtype and
    on the host, for who moves them anyway. empty: without memory for parameters, for `layerwise.Filler`. Raises
    ValueError for what is no such folder and for a model whose logits are changed behind its head.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(_checked(path))
    way = attention_by or attention.choose(device)
    if way == attention.VARLEN:
        attention.register()
    if empty:
        model = layerwise.emptied(config, dtype, way)
    elif layerwise.bare(path):
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, dtype=dtype, attn_implementation=way
            )
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype="auto" if keep else dtype, attn_implementation=way)
    if not (keep or empty):
        model = model.to(device=device)
    _check_head(model)
    _without_dropout(model)
    model.config.use_cache = False
    return model.train()


def _checked(path: str) -> str:
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"model folder {path} holds no config.json")
    if not folder.is_dir() and (path.startswith(("/", ".", "~")) or path.count("/") > 1):
        raise ValueError(f"model folder {path} does not exist")
    return path


def _check_head(model: Any) -> None:
    head = model.get_output_embeddings()
    changed = [k for k, v in BEHIND_HEAD.items() if getattr(model.config, k, v) not in (v, None)]
    if head is None or getattr(head, "bias", None) is not None or changed:
        what = f"changes its logits ({', '.join(changed)})" if changed else "has no plain LM head"
        raise ValueError(
            f"model type {model.config.model_type} {what}: log-probabilities in chunks are not known for it"
        )


def _without_dropout(model: nn.Module) -> None:
    """The policy that learns must be the policy that was asked."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def packable(model: Any) -> bool:
    """Whether sequences one behind the other stay apart: a layer that carries a state along lets them flow together."""
    config = model.config
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ()
    return all(kind.endswith("attention") and not kind.startswith("linear") for kind in kinds)


def layers(model: Any) -> list[nn.Module]:
    """The decoder layers: what is sharded, compiled and checkpointed by itself."""
    names = set(model._no_split_modules or ()) | set(getattr(model.get_decoder(), "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def checkpointed(model: Any) -> None:
    """Keep only the layers' inputs for the backward pass, and compute what is between again."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def compiled(model: Any, backend: str = "inductor") -> None:
    """Compile each layer, once for all as they are alike; give it inputs of few shapes."""
    for layer in layers(model):
        layer.compile(backend=backend)


class Backbone(nn.Module):
    """A model up to its last hidden states, of which one is taken before each own token."""

    def __init__(self, hf: Any) -> None:
        super().__init__()
        self.hf = hf
        self.fused = False  # what is done to logits is compiled too

    def hidden(self, inputs: Inputs) -> Tensor:
        """Shape (n, hidden size)."""
        found = self.hf.get_decoder()(
            input_ids=inputs.tokens_RN, position_ids=inputs.position_RN, use_cache=False, **inputs.bounds
        )
        hidden: Tensor = found.last_hidden_state
        return hidden.flatten(0, 1).index_select(0, inputs.before_n)


class Policy(Backbone):
    def forward(
        self, inputs: Inputs, temperature: float = 1.0, entropy: bool = False, chunk: int = CHUNK
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of the own tokens, and the entropies where they were drawn; shape n, float32."""
        hidden_nD, head_VD = self.hidden(inputs), self.hf.get_output_embeddings().weight
        how: dict[str, Any] = {"temperature": temperature, "chunk": chunk, "fused": self.fused}
        if entropy:
            return logprobs_and_entropy(hidden_nD, head_VD, inputs.target_n, **how)
        return logprobs(hidden_nD, head_VD, inputs.target_n, **how), None


class Critic(Backbone):
    """A model of its own with one number in place of the LM head, 0 before it has learnt."""

    def __init__(self, hf: Any) -> None:
        super().__init__(hf)
        weight = hf.get_output_embeddings().weight
        self.value = nn.Linear(weight.shape[1], 1, bias=False, dtype=weight.dtype, device=weight.device)
        nn.init.zeros_(self.value.weight)
        if weight is not hf.get_input_embeddings().weight:
            hf.set_output_embeddings(nn.Identity())

    def forward(self, inputs: Inputs) -> Tensor:
        """Value of the state before each own token, shape n, float32."""
        return torch.mv(self.hidden(inputs), self.value.weight[0]).float()

"""One training step taken apart: log-probabilities, advantages, forward and backward, the optimiser, each timed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainers import algorithms, lora, losses, model
from trainers.algorithms import Algorithm, Targets
from trainers.batch import Batch
from trainers.flat import Slot
from trainers.fsdp import Ranks
from trainers.layerwise import Filler
from trainers.learner import Learner, Reference
from trainers.logprobs import spread
from trainers.micro import cut
from trainers.model import Backbone, Critic, Policy
from trainers.offload import Offload
from trainers.passes import Micro, Passes
from trainers.phases import Phases
from trainers.settings import Settings

STATE = "trainer-{rank}.safetensors"
Terms = tuple[Tensor, dict[str, Tensor]]  # a loss, and figures about it


class Trainer:
    """A policy that learns from batches by an algorithm, with the critic and the reference that this needs.

    path: a model's folder, or its name at a hub. With `ranks` each process has a share of it, takes in the same batches
    and gives the same figures. Raises ValueError as `model.load`, `Learner` and `algorithms.prepare` do.
    """

    def __init__(
        self, path: str, algorithm: Algorithm, settings: Settings, device: str = "cpu", ranks: Ranks | None = None
    ) -> None:
        self.path, self.algorithm, self.settings, self.ranks = path, algorithm, settings, ranks
        self.device, self.dtype = torch.device(device), getattr(torch, settings.dtype)
        pack = self.device.type == "cuda" if settings.pack is None else settings.pack
        self.passes = Passes(settings.budget, pack, settings.compiled, ranks)
        self.phases, self.away = Phases(self.device), Offload(self.device)
        self.random = torch.Generator().manual_seed(settings.seed)
        hf, filler = self._load()
        if pack and not model.packable(hf):
            raise ValueError(f"model type {hf.config.model_type} carries a state from token to token: set pack=False")
        place = self.dtype, self.device
        self.policy = Learner(Policy(hf), *place, settings.optimiser, settings.lora, ranks, filler)
        self.critic: Learner | None = None
        if algorithm.critic:
            hf, filler = self._load()
            self.critic = Learner(Critic(hf), *place, settings.critic, ranks=ranks, filler=filler)
        self.reference: Reference | None = None
        if algorithm.kl.coefficient and not settings.lora:
            hf, filler = self._load()
            self.reference = Reference(Policy(hf), *place, ranks, filler)
        for learner in self._learners():
            self._speed(learner.network)
        if self.reference:
            self._speed(self.reference.network)

    def _load(self) -> tuple[Any, Filler | None]:
        """A model as it is on the disk, or empty with what fills it; where it is to be is the learner's work."""
        settings = self.settings
        hf = model.load(
            self.path, self.dtype, self.device, seed=settings.seed, keep=True, empty=settings.layerwise,
            attention_by=settings.attention or ("" if self.passes.pack else "sdpa"),
        )  # fmt: skip
        return hf, Filler(hf, self.path, self.dtype, settings.seed) if settings.layerwise else None

    def _speed(self, network: Backbone) -> None:
        if self.settings.checkpointing:
            model.checkpointed(network.hf)
        if self.settings.compiled:
            model.compiled(network.hf)
            network.fused = True

    def _learners(self) -> list[Learner]:
        return [self.policy, *([self.critic] if self.critic else [])]

    def train(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch. Figures of `algorithms.loss`, means over its optimiser steps, `reward`, `gradient_norm`,
        the mismatch with the rollout engine, tokens; seconds of each phase (`…_s`) with the device synchronised, and on
        a GPU the peak memory of each (`…_bytes`). Raises RuntimeError while it is offloaded."""
        if self.away.away:
            raise RuntimeError("the trainer is offloaded: bring it back first")
        batch, phase = batch.to(self.device), self.phases.phase
        self.phases.figures()
        with phase("logprobs_old"):
            old_BT, entropy_BT = self.logprobs(batch, self.settings.entropy)
        reference_BT = value_BT = None
        if self.algorithm.kl.coefficient:
            with phase("logprobs_ref"):
                reference_BT = self.reference_logprobs(batch)
        if self.critic:
            with phase("values"):
                value_BT = self.values(batch)
        with phase("advantage"):
            targets = algorithms.prepare(self.algorithm, batch, old_BT, reference_BT, value_BT)
        figures = _described(batch, old_BT)
        if entropy_BT is not None:
            figures["entropy"] = float((entropy_BT * targets.share_BT).sum())
        return figures | self._updated(batch, targets) | self.phases.figures()

    def _updated(self, batch: Batch, targets: Targets) -> dict[str, float]:
        """All optimiser steps of a batch."""
        steps = list[dict[str, float]]()
        for _ in range(self.settings.epochs):
            for index in self._minibatches(len(batch.reward_B)):
                with self.phases.phase("forward_backward"):
                    found = self._backward(batch, index, lambda micro: self._loss(micro, targets))
                with self.phases.phase("optimiser"):
                    found["gradient_norm"] = self.policy.step()
                    if self.critic:
                        found["critic_norm"] = self.critic.step()
                steps.append(found)
        means = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
        return means | {"steps": float(len(steps))}

    def _minibatches(self, count: int) -> list[list[int]]:
        """Rows of each optimiser step, the same on every rank."""
        wanted = self.settings.minibatches
        if count < wanted:
            raise ValueError(f"{wanted} minibatches of {count} sequences: ask for at most {count}")
        if wanted == 1:
            return [list(range(count))]
        order: list[int] = torch.randperm(count, generator=self.random).tolist()
        return [order[part::wanted] for part in range(wanted)]

    def imitate(self, batch: Batch) -> dict[str, float]:
        """Learn to say what a batch's own tokens are, as in a supervised warm-up: `loss` is their mean negative
        log-probability. A critic learns nothing from it."""
        batch = batch.to(self.device)
        share_BT = losses.token_weights(batch.mask_BT, batch.limit)

        def loss(micro: Micro) -> Terms:
            logp_n, _ = self.policy.network(micro.inputs, chunk=self.settings.chunk)
            share_n = share_BT[micro.rows, : micro.width][micro.batch.mask_BT]
            return -(logp_n * share_n).sum(), {}

        found = self._backward(batch, range(len(batch.reward_B)), loss)
        return found | {"gradient_norm": self.policy.step()}

    def _backward(self, batch: Batch, index: Sequence[int], compute: Callable[[Micro], Terms]) -> dict[str, float]:
        """Gradients of the loss of these rows, scaled to the whole batch's; its figures."""
        scale = len(batch.reward_B) / len(index)
        sums: dict[str, Tensor] = {}
        for micro in self.passes.micro(batch, index):
            loss, figures = compute(micro)
            # FSDP2 takes the mean of the ranks' gradients: the loss is a sum over them.
            torch.autograd.backward(loss * (scale * micro.counts * (self.ranks.count if self.ranks else 1)))
            for name, value in (figures | {"loss": loss.detach()}).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * (scale * micro.counts)
        found = torch.stack(list(sums.values()))
        if self.ranks:
            self.ranks.total(found)
        return dict(zip(sums, found.tolist(), strict=True))

    def _loss(self, micro: Micro, targets: Targets) -> Terms:
        settings, mask_BT = self.settings, micro.batch.mask_BT
        targets = cut(targets, micro.rows, micro.width)
        wanted = bool(self.algorithm.entropy)
        logp_n, entropy_n = self.policy.network(micro.inputs, settings.temperature, wanted, settings.chunk)
        entropy_BT = spread(entropy_n, mask_BT) if wanted else None
        value_BT = spread(self.critic.network(micro.inputs), mask_BT) if self.critic else None
        return algorithms.loss(self.algorithm, targets, spread(logp_n, mask_BT), entropy_BT, value_BT)

    # Passes without gradients ------------------------------------------------------------------------------------

    def logprobs(self, batch: Batch, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of the own tokens under the policy now, and entropies; shape BT, 0 off the mask, the same
        on every rank."""
        return self._scored(batch, self.policy.network, entropy)

    def reference_logprobs(self, batch: Batch) -> Tensor | None:
        """The same under the reference; None where the algorithm needs none. A policy without its adapter is its
        own."""
        if self.reference:
            return self._scored(batch, self.reference.network)[0]
        if not (self.settings.lora and self.algorithm.kl.coefficient):
            return None
        lora.enabled(self.policy.network, False)
        try:
            return self._scored(batch, self.policy.network)[0]
        finally:
            lora.enabled(self.policy.network, True)

    def _scored(self, batch: Batch, network: Any, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        settings = self.settings
        out = self.passes.filled(
            batch.to(self.device),
            lambda given: network(given, settings.temperature, entropy, settings.chunk)[: 1 + entropy],
        )
        return out[0], out[1] if entropy else None

    def values(self, batch: Batch) -> Tensor | None:
        """The critic's values of the states before the own tokens; shape BT. None without a critic."""
        if not (critic := self.critic):
            return None
        return self.passes.filled(batch.to(self.device), lambda given: [critic.network(given)])[0]

    # Weights -----------------------------------------------------------------------------------------------------

    def weights(self) -> tuple[Tensor, list[Slot]]:
        """The buffer (uint8) that every step changes in place, and where each tensor of the checkpoint is in the flat
        space; a rank of several holds `policy.held.pieces` of it."""
        return self.policy.held.buffer, self.policy.held.slots

    def write_adapter(self, folder: str) -> None:
        """Write the adapter as a PEFT folder (rank 0; all must call). Raises ValueError where there is none."""
        if not self.settings.lora:
            raise ValueError("there is no adapter to write: train with `lora`")
        tensors = self.policy.adapter()
        if not (self.ranks and self.ranks.rank):
            lora.write(tensors, self.settings.lora, Path(folder))

    def anchor(self) -> None:
        """Make the policy as it is now the reference. Raises ValueError where that is the model without its adapter."""
        if self.settings.lora:
            raise ValueError(
                "the reference is the model without its adapter: save the merged model and begin from that"
            )
        if self.reference:
            self.reference.follow(self.policy)

    def offload(self) -> dict[str, float]:
        """Free the device memory that only training needs; the weights' buffer stays where it is mapped. Bytes `moved`
        to the host, `dropped`, and `kept`; `seconds`. Raises RuntimeError when it is away already."""
        began = self.phases.now()
        moved = [tensor for learner in self._learners() for tensor in learner.moved()]
        moved += [self.critic.held.buffer] if self.critic else []
        moved += self.reference.moved() if self.reference else []
        found = self.away.out(moved, [one for learner in self._learners() for one in learner.held.dropped()])
        kept = self.policy.held.buffer.numel()
        return {**found, "kept": kept, "seconds": self.phases.now() - began}

    def onload(self) -> dict[str, float]:
        """Bring back what `offload` took away: bytes `moved`, and `seconds`."""
        began = self.phases.now()
        return {**self.away.back(), "seconds": self.phases.now() - began}

    def save(self, folder: str) -> None:
        """Write a checkpoint that transformers and the engines read (rank 0), and each rank's state to `resume`
        from."""
        from safetensors.torch import save_file

        rank = self.ranks.rank if self.ranks else 0
        self.policy.save(Path(folder), write=rank == 0)
        state, steps = dict[str, Tensor](), dict[str, str]()
        for number, learner in enumerate(self._learners()):
            state |= {f"{number}.{name}": tensor.cpu().contiguous() for name, tensor in learner.state().items()}
            steps[str(number)] = str(learner.optimiser.steps)
        save_file(state, Path(folder, STATE.format(rank=rank)), steps)

    def resume(self, folder: str) -> None:
        """Go on from what `save` wrote, on as many ranks. Raises ValueError where nothing was."""
        from safetensors import safe_open

        file = Path(folder, STATE.format(rank=self.ranks.rank if self.ranks else 0))
        if not file.is_file():
            raise ValueError(f"no trainer's state in {folder}: {file.name} is not there")
        with safe_open(file, "pt") as found:
            for number, learner in enumerate(self._learners()):
                names = [name for name in found.keys() if name.startswith(f"{number}.")]  # noqa: SIM118
                state = {name.partition(".")[2]: found.get_tensor(name) for name in names}
                learner.resume(state, int(found.metadata()[str(number)]))


def _described(batch: Batch, old_BT: Tensor) -> dict[str, float]:
    """What is known of a batch before anything is learnt from it."""
    figures = {
        "reward": float(batch.reward_B.mean()),
        "tokens": float(batch.length_B.sum()),
        "own_tokens": float(batch.own_B.sum()),
    }
    if batch.sampled_BT is not None:
        found = losses.mismatch(old_BT, batch.sampled_BT, batch.mask_BT)
        figures |= {f"mismatch_{name}": value for name, value in found.items()}
    return figures

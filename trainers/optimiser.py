"""AdamW over float32 masters, with the gradient's norm over all ranks, clipped."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class AdamW:
    """Loshchilov and Hutter 2019, arXiv:1711.05101. `decay` is for matrices, not for norms and biases; `clip`: the
    largest norm of the whole gradient, 0 for any."""

    rate: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    decay: float = 0.0
    clip: float = 1.0


class Optimiser:
    """Steps masters (float32, by name) by their `.grad`. With `group` they are a rank's shares of the parameters."""

    def __init__(self, masters: Mapping[str, Tensor], settings: AdamW, group: dist.ProcessGroup | None = None) -> None:
        self.masters, self.settings, self.group, self.steps = dict(masters), settings, group, 0
        matrices = [master for master in self.masters.values() if master.dim() > 1]
        others = [master for master in self.masters.values() if master.dim() <= 1]
        self.adam = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.rate, betas=settings.betas, eps=settings.epsilon, fused=True,
        )  # fmt: skip

    @torch.no_grad()
    def step(self) -> float:
        """One step; the gradient's norm before it was clipped. Raises FloatingPointError for one that is not finite,
        with nothing stepped."""
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        norm = self._norm(gradients)
        if not norm.isfinite():
            raise FloatingPointError(f"the gradient of step {self.steps} is not finite (norm {float(norm)})")
        if self.settings.clip:
            torch._foreach_mul_(gradients, (self.settings.clip / (norm + 1e-6)).clamp(max=1.0))
        self.adam.step()
        self.steps += 1
        return float(norm)

    def _norm(self, gradients: list[Tensor]) -> Tensor:
        square = torch.stack(torch._foreach_norm(gradients)).square().sum()
        if self.group is not None:
            dist.all_reduce(square, group=self.group)
        return square.sqrt()

    def moments(self) -> dict[str, Tensor]:
        """Adam's two moments of each master, none before the first step."""
        return {
            f"{kind}.{name}": self.adam.state[master][kind]
            for name, master in self.masters.items()
            for kind in ("exp_avg", "exp_avg_sq")
            if kind in self.adam.state[master]
        }

    def resume(self, moments: Mapping[str, Tensor], steps: int) -> None:
        """Go on from another's moments, behind its step of that number."""
        self.steps = steps
        for name, master in self.masters.items():
            found = {kind: moments[f"{kind}.{name}"].to(master, copy=True) for kind in ("exp_avg", "exp_avg_sq")}
            self.adam.state[master] = {"step": torch.tensor(float(steps), device=master.device), **found}

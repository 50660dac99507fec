"""Algorithms as rows of a table: how rewards become advantages, and which loss is taken.

A step is: `refill` in the loop that asks for rollouts where the algorithm is `dynamic`, `prepare` once for the whole
batch, then `loss` for each micro-batch, `Targets.rows(...)`; the losses add up to that of the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers import advantages, losses
from trainers.batch import Batch, Rows, join, numbered


@dataclass(frozen=True)
class Kl:
    """How the policy is held near the reference. `place`: "loss", or "reward" for a penalty of each token's reward."""

    estimator: str = "k1"  # a row of losses.KL
    place: str = "reward"
    coefficient: float = 0.0  # 0: no reference is needed


@dataclass(frozen=True)
class Signals:
    """What advantages are made of; reward_BT is 0 but at tokens that were rewarded or penalised."""

    reward_BT: Tensor
    mask_BT: Tensor
    group_B: Tensor
    value_BT: Tensor | None

    @property
    def total_B(self) -> Tensor:
        return self.reward_BT.sum(-1)


Estimate = tuple[Tensor, Tensor | None]  # advantage_BT, and the return_BT that a critic learns


def by_group(estimator: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Signals], Estimate]:
    """An estimator over groups as one of Signals."""
    return lambda signals: (advantages.spread(estimator(signals.total_B, signals.group_B), signals.mask_BT), None)


def by_critic(discount: float = 1.0, trace: float = 0.95) -> Callable[[Signals], Estimate]:
    """GAE, its advantages made of mean 0 and deviation 1 over the batch; the returns stay as they are."""

    def estimate(signals: Signals) -> Estimate:
        value_BT = _there(signals.value_BT, "a critic", "value_BT")
        found = advantages.gae(signals.reward_BT, value_BT, signals.mask_BT, discount, trace)
        return advantages.whiten(found[0], signals.mask_BT), found[1]

    return estimate


def by_batch(discount: float = 1.0) -> Callable[[Signals], Estimate]:
    """REINFORCE++."""
    return lambda signals: (advantages.reinforce_pp(signals.reward_BT, signals.mask_BT, discount), None)


@dataclass(frozen=True)
class Algorithm:
    """One row of the table; `dataclasses.replace` makes another."""

    estimate: Callable[[Signals], Estimate]
    weights: str  # a row of losses.WEIGHTS: how tokens share in the policy's loss
    ratio: str = "token"  # a row of losses.RATIOS
    low: float = 0.2  # the ratio is clipped to 1 - low … 1 + high
    high: float = 0.2
    kl: Kl = Kl()
    entropy: float = 0.0  # coefficient of the entropy bonus, a mean over tokens
    cap: float | None = 2.0  # of the importance weights of trainer over rollout engine; None: no correction
    critic: bool = False
    value: float = 1.0  # coefficient of the critic's loss, a mean over tokens
    value_clip: float = 0.2
    dynamic: bool = False  # drop groups of equal reward and ask for more
    overlong: float = 0.0  # share of the limit, at its end, over which the penalty of a long output grows to 1
    cut: bool = True  # learn from outputs that were cut off at the limit


# Clips and coefficients are the papers', but the KL's of rloo (TRL's default) and reinforce_pp (OpenRLHF's).
ALGORITHMS = {
    "grpo": Algorithm(by_group(advantages.grpo), "sequence", kl=Kl("k3", "loss", 0.04)),
    "dr_grpo": Algorithm(by_group(advantages.dr_grpo), "constant"),
    "rloo": Algorithm(by_group(advantages.rloo), "sequence", ratio="sequence", kl=Kl("k1", "reward", 0.05)),
    "dapo": Algorithm(by_group(advantages.grpo), "token", high=0.28, dynamic=True, overlong=0.2),
    "ppo": Algorithm(by_critic(), "token", kl=Kl("k1", "reward", 0.02), critic=True),
    "reinforce_pp": Algorithm(by_batch(), "token", kl=Kl("k1", "reward", 0.01)),
}


@dataclass(frozen=True, eq=False)
class Targets(Rows):
    """What a batch's loss needs, none of it differentiable; all of shape BT.

    mask: the tokens learnt from. old: log-probabilities under the policy before the update. weight: of the policy's
    loss; share: of means over tokens. correction: weights of trainer over rollout engine. reference, value, returns:
    None where the algorithm needs none.
    """

    mask_BT: Tensor
    old_BT: Tensor
    advantage_BT: Tensor
    weight_BT: Tensor
    share_BT: Tensor
    correction_BT: Tensor
    reference_BT: Tensor | None
    value_BT: Tensor | None
    return_BT: Tensor | None


@torch.no_grad()
def prepare(
    algorithm: Algorithm,
    batch: Batch,
    old_BT: Tensor,
    reference_BT: Tensor | None = None,
    value_BT: Tensor | None = None,
) -> Targets:
    """Advantages, weights and corrections of a whole batch (all ranks' rows: normalisation goes over them).

    old_BT, reference_BT: log-probabilities of the tokens under the policy before the update and under the reference;
    value_BT: the critic's. Raises ValueError when the algorithm needs one that is not there, or no token is left.
    """
    _check(algorithm, batch, old_BT, reference_BT, value_BT)
    mask_BT = batch.mask_BT if algorithm.cut else batch.mask_BT & batch.ended_B[:, None]
    ratio = losses.RATIOS[algorithm.ratio]
    signals = Signals(rewards(algorithm, batch, old_BT, reference_BT), batch.mask_BT, batch.group_B, value_BT)
    advantage_BT, return_BT = algorithm.estimate(signals)
    correction_BT = torch.ones_like(old_BT)
    if algorithm.cap is not None and batch.sampled_BT is not None:
        correction_BT = losses.correction(ratio(old_BT, batch.sampled_BT, batch.mask_BT), algorithm.cap)
    return Targets(
        mask_BT=mask_BT,
        old_BT=old_BT,
        advantage_BT=advantage_BT,
        weight_BT=losses.WEIGHTS[algorithm.weights](mask_BT, batch.limit).to(old_BT),
        share_BT=losses.token_weights(mask_BT, batch.limit).to(old_BT),
        correction_BT=correction_BT,
        reference_BT=reference_BT,
        value_BT=value_BT,
        return_BT=return_BT,
    )


def rewards(algorithm: Algorithm, batch: Batch, old_BT: Tensor, reference_BT: Tensor | None) -> Tensor:
    """Each token's reward: the sequence's, with the penalty of a long one, at its last own token; a penalty for KL at
    every own token where the algorithm has it there."""
    reward_B = batch.reward_B.to(old_BT)
    if algorithm.overlong:
        reward_B = reward_B + overlong(batch.own_B, batch.limit, algorithm.overlong * batch.limit).to(reward_B)
    place_T = torch.arange(old_BT.shape[1], device=old_BT.device)
    last_B = torch.where(batch.mask_BT, place_T, -1).amax(-1)
    reward_BT = advantages.spread(reward_B, place_T == last_B[:, None])
    if algorithm.kl.coefficient and algorithm.kl.place == "reward" and reference_BT is not None:
        log_ratio_BT = losses.token_ratio(old_BT, reference_BT, batch.mask_BT)
        reward_BT = reward_BT - algorithm.kl.coefficient * losses.KL[algorithm.kl.estimator](log_ratio_BT)
    return reward_BT


def overlong(length_B: Tensor, limit: int, cache: float) -> Tensor:
    """DAPO's soft punishment of long outputs: 0 up to limit - cache tokens, from there falling to -1 at the limit.

    Yu et al. 2025, arXiv:2503.14476, equation 13 (there 4096 of 20480 tokens, a fifth).
    """
    if not 0 < cache <= limit:
        raise ValueError(f"a cache of {cache} tokens with a limit of {limit}: it must lie between 0 and the limit")
    return ((limit - cache - length_B) / cache).clamp(-1, 0)


def refill(batches: Sequence[Batch], wanted: int) -> tuple[Batch | None, int]:
    """DAPO's dynamic sampling: the first `wanted` groups whose rewards differ, and how many groups are still missing.

    batches: all that was generated so far for one step. While some are missing, generate that many more groups and call
    again; the batch is None while there is none at all. Yu et al. 2025, arXiv:2503.14476, section 3.2.
    """
    if not batches:
        return None, wanted
    batch = join(batches)
    batch = batch.rows(advantages.varied(batch.reward_B, batch.group_B))
    batch = batch.rows(numbered(batch.group_B) < wanted)
    return (batch if len(batch.reward_B) else None), wanted - batch.groups


def loss(
    algorithm: Algorithm,
    targets: Targets,
    logp_BT: Tensor,
    entropy_BT: Tensor | None = None,
    value_BT: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of these rows, and figures about them; both add up over micro-batches and ranks.

    logp_BT, entropy_BT, value_BT: of the policy and the critic now. Figures: the terms of the loss, `policy`,
    `reference`, `bonus`, `value`, with their coefficients; means over tokens, `ratio`, `kl`, `entropy`, and `clipped`,
    the share of tokens whose gradient the clip took away. Raises ValueError for a tensor that is not there but
    needed.
    """
    mask_BT, share_BT, advantage_BT = targets.mask_BT, targets.share_BT, targets.advantage_BT
    ratio_BT = losses.RATIOS[algorithm.ratio](logp_BT, targets.old_BT, mask_BT).exp()
    policy_BT = losses.clipped(ratio_BT, advantage_BT, algorithm.low, algorithm.high) * targets.correction_BT
    outside_BT = losses.outside(ratio_BT, advantage_BT, algorithm.low, algorithm.high)
    figures = {"ratio": (ratio_BT * share_BT).sum(), "clipped": (outside_BT * share_BT).sum()}
    terms = {"policy": (policy_BT * targets.weight_BT).sum()}
    if targets.reference_BT is not None:
        kl_BT = losses.KL[algorithm.kl.estimator](losses.token_ratio(logp_BT, targets.reference_BT, mask_BT))
        figures["kl"] = (kl_BT * share_BT).sum()
        if algorithm.kl.place == "loss":
            terms["reference"] = algorithm.kl.coefficient * (kl_BT * targets.weight_BT).sum()
    if entropy_BT is not None:
        figures["entropy"] = (losses.own(entropy_BT, mask_BT) * share_BT).sum()
    if algorithm.entropy:
        terms["bonus"] = -algorithm.entropy * _there(figures.get("entropy"), "an entropy bonus", "entropy_BT")
    if algorithm.critic:
        terms["value"] = algorithm.value * (_critic(algorithm, targets, value_BT) * share_BT).sum()
    total = torch.stack(list(terms.values())).sum()
    return total, {name: value.detach() for name, value in (figures | terms).items()}


def _critic(algorithm: Algorithm, targets: Targets, value_BT: Tensor | None) -> Tensor:
    given = (value_BT, targets.value_BT, targets.return_BT)
    new_BT, old_BT, return_BT = (losses.own(_there(one, "a critic", "value_BT"), targets.mask_BT) for one in given)
    return losses.value_loss(new_BT, old_BT, return_BT, algorithm.value_clip)


def _check(
    algorithm: Algorithm, batch: Batch, old_BT: Tensor, reference_BT: Tensor | None, value_BT: Tensor | None
) -> None:
    if algorithm.kl.coefficient:
        _there(reference_BT, f"a KL coefficient of {algorithm.kl.coefficient}", "reference_BT, or set it to 0")
    if algorithm.critic:
        _there(value_BT, "a critic", "value_BT")
    if algorithm.cap is not None:
        _there(batch.sampled_BT, "truncated importance sampling", "the engine's logprobs, or set cap to None")
    for name, found in (("old_BT", old_BT), ("reference_BT", reference_BT), ("value_BT", value_BT)):
        if found is not None and found.shape != batch.tokens_BT.shape:
            raise ValueError(f"{name} is of shape {[*found.shape]}, the batch's tokens of {[*batch.tokens_BT.shape]}")


def _there(value: Tensor | None, what: str, name: str) -> Tensor:
    if value is None:
        raise ValueError(f"{what} needs what is not there: pass {name}")
    return value

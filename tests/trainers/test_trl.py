"""The same batch through TRL's own GRPO and RLOO code, which sits in methods of its trainers: they are called on a
stand-in that holds what they read, and that gives them our log-probabilities where theirs would run a model."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.trainers.cases import Case, cases
from trainers import advantages, losses
from trainers.algorithms import ALGORITHMS, Algorithm, Kl, loss, overlong, prepare

trl = pytest.importorskip("trl")
from trl.trainer import grpo_trainer, rloo_trainer  # noqa: E402

NEAR = 1e-6
SIZE = 3  # samples of a prompt


class Accelerator:
    """One process."""

    device, process_index, num_processes, sync_gradients = torch.device("cpu"), 0, 1, True

    @staticmethod
    def gather(value: Tensor) -> Tensor:
        return value

    @staticmethod
    def reduce(value: Tensor, reduction: str) -> Tensor:
        return value


def stand_in(**changes: Any) -> Any:
    """What the methods read of a trainer, with the defaults of an evaluation without gradient accumulation."""
    settings = {
        "accelerator": Accelerator(), "model": SimpleNamespace(training=False),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_logs": defaultdict(list, rewards=defaultdict(list)), "_pending_extra_logs": {}, "_pending_metrics": {},
        "environment_factories": None, "environments": None, "tools": None, "_is_vlm": False, "log_multimodal": False,
        "pad_to_multiple_of": None, "_tokenizer": SimpleNamespace(pad_token_id=0), "mask_truncated_completions": False,
        "use_vllm": False, "vllm_importance_sampling_correction": False, "num_iterations": 1, "ref_model": object(),
        "num_generations": SIZE, "num_generations_eval": SIZE, "reward_weights": torch.ones(1),
        "reward_func_names": ["r"],
        "reward_funcs": [None], "reward_clip_range": None, "normalize_advantages": False, "beta": 0.0,
        "multi_objective_aggregation": "sum_then_normalize", "scale_rewards": "group", "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token",
        "epsilon_low": 0.2, "epsilon_high": 0.28, "loss_type": "grpo", "max_completion_length": 8,
        "_entropy_bonus_enabled": False, "use_adaptive_entropy": False, "entropy_coef": 0.0,
        "current_gradient_accumulation_steps": 1,
        "args": SimpleNamespace(
            steps_per_generation=1, gradient_accumulation_steps=1, per_device_eval_batch_size=99, delta=None,
            gradient_checkpointing_kwargs=None, use_bias_correction_kl=False, report_to=[],
        ),
    }  # fmt: skip
    return SimpleNamespace(**(settings | changes))


def theirs(module: Any, method: str) -> Any:
    """A method of TRL's GRPO or RLOO trainer."""
    return getattr(getattr(module, f"{module.__name__.split('.')[-1].split('_')[0].upper()}Trainer"), method)


@contextmanager
def quiet() -> Iterator[None]:
    """Their methods turn off gradient checkpointing of a model, and gather objects of processes: here are none."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (grpo_trainer, rloo_trainer):
            patch.setattr(module, "disable_gradient_checkpointing", lambda model, kwargs: nullcontext())
            patch.setattr(module, "gather_object", lambda value: value)
            patch.setattr(module, "gather", lambda value: value, raising=False)
        yield


def scored(module: Any, case: Case, **changes: Any) -> dict[str, Any]:
    """What they make of our rewards, old and reference log-probabilities: advantages, and what their loss reads."""
    batch, given = case.batch, iter([case.old_BT, case.reference_BT])
    count, ids = len(batch.reward_B), [row[m].tolist() for row, m in zip(batch.tokens_BT, batch.mask_BT, strict=True)]
    generated = ([[1]] * count, ids, [""] * count)
    if module is grpo_trainer:
        engine = None if batch.sampled_BT is None else flush(batch.sampled_BT, batch.mask_BT)
        kept = [row[: len(one)].tolist() for row, one in zip(engine, ids, strict=True)] if engine is not None else None
        generated = ([[1]] * count, ids, None, [""] * count, kept, {}, None, [])
    stub = stand_in(
        _generate=lambda prompts: generated,
        _calculate_rewards=lambda *_: batch.reward_B[:, None],
        _get_per_token_logps_and_entropies=lambda *_, **__: (flush(next(given), batch.mask_BT), None, None),
        **({"reward_weights": torch.ones(1, dtype=torch.float64)} | changes),
    )
    with quiet():
        found: dict[str, Any] = theirs(module, "_generate_and_score_completions")(stub, [{"prompt": ""}] * count)
    return found


def flush(value_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Own tokens at the left, as TRL has outputs; 0 behind them."""
    width = int(mask_BT.sum(-1).max())
    out_BT = value_BT.new_zeros(len(value_BT), width)
    for row, (value, mask) in enumerate(zip(value_BT, mask_BT, strict=True)):
        out_BT[row, : int(mask.sum())] = value[mask]
    return out_BT


def lost(module: Any, case: Case, inputs: dict[str, Any], **changes: Any) -> Tensor:
    """Their loss of our log-probabilities now, with their advantages."""
    mask_BT = case.batch.mask_BT
    now = (flush(case.new_BT, mask_BT), flush(case.entropy_BT, mask_BT), None)
    stub = stand_in(_get_per_token_logps_and_entropies=lambda *_, **__: now, **changes)
    found: Tensor = theirs(module, "_compute_loss")(stub, None, inputs)
    return found


def ours(algorithm: Algorithm, case: Case) -> Tensor:
    targets = prepare(algorithm, case.batch, case.old_BT, case.reference_BT)
    return loss(algorithm, targets, case.new_BT, case.entropy_BT)[0]


@given(cases(size=SIZE))
def test_advantages_of_grpo(case: Case) -> None:
    mine_B = advantages.grpo(case.batch.reward_B, case.batch.group_B)
    assert torch.allclose(mine_B, scored(grpo_trainer, case)["advantages"], atol=NEAR)


@given(cases(size=SIZE))
def test_advantages_of_dr_grpo(case: Case) -> None:
    mine_B = advantages.dr_grpo(case.batch.reward_B, case.batch.group_B)
    assert torch.allclose(mine_B, scored(grpo_trainer, case, scale_rewards="none")["advantages"], atol=NEAR)


@given(cases(size=SIZE), st.sampled_from([0.0, 0.05]))
def test_advantages_of_rloo_with_the_penalty_for_kl(case: Case, beta: float) -> None:
    algorithm = replace(ALGORITHMS["rloo"], kl=Kl("k1", "reward", beta))
    targets = prepare(algorithm, case.batch, case.old_BT, case.reference_BT)
    mine_B = targets.advantage_BT[torch.arange(len(targets.mask_BT)), case.batch.length_B - 1]
    assert torch.allclose(mine_B, scored(rloo_trainer, case, beta=beta)["advantages"], atol=NEAR)


GRPO = {  # their loss_type and other settings: our row of the table
    "grpo": ({"loss_type": "grpo"}, ALGORITHMS["grpo"]),
    "bnpo": ({"loss_type": "bnpo"}, ALGORITHMS["dapo"]),
    "dapo": ({"loss_type": "dapo"}, ALGORITHMS["dapo"]),
    "dr_grpo": ({"loss_type": "dr_grpo", "scale_rewards": "none"}, ALGORITHMS["dr_grpo"]),
}


@pytest.mark.parametrize("name", GRPO)
@settings(max_examples=50)
@given(
    case=cases(size=SIZE),
    beta=st.sampled_from([0.0, 0.04]),
    entropy=st.sampled_from([0.0, 0.01]),
    cap=st.sampled_from([None, 1.2, 2.0]),
)
def test_losses_of_grpo(name: str, case: Case, beta: float, entropy: float, cap: float | None) -> None:
    """With the KL in the loss, the entropy bonus, clip-higher and token-level truncated importance sampling."""
    changes, row = GRPO[name]
    common: dict[str, Any] = {
        "beta": beta, "entropy_coef": entropy, "_entropy_bonus_enabled": bool(entropy), **changes,
        "use_vllm": cap is not None, "vllm_importance_sampling_correction": cap is not None,
        "vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_min": None,
        "vllm_importance_sampling_clip_max": cap,
    }  # fmt: skip
    inputs = scored(grpo_trainer, case, **common)
    mask_BT = case.batch.mask_BT
    inputs |= {
        "old_per_token_logps": flush(case.old_BT, mask_BT),
        "ref_per_token_logps": flush(case.reference_BT, mask_BT),
    }
    algorithm = replace(row, high=0.28, kl=Kl("k3", "loss", beta), entropy=entropy, cap=cap, overlong=0.0)
    assert float(ours(algorithm, case)) == pytest.approx(float(lost(grpo_trainer, case, inputs, **common)), abs=NEAR)


@given(case=cases(size=SIZE), beta=st.sampled_from([0.0, 0.05]))
def test_losses_of_rloo(case: Case, beta: float) -> None:
    """One ratio for a whole output, clipped; the penalty for KL in the reward."""
    inputs = scored(rloo_trainer, case, beta=beta)
    algorithm = replace(ALGORITHMS["rloo"], high=0.28, kl=Kl("k1", "reward", beta), cap=None)
    assert float(ours(algorithm, case)) == pytest.approx(float(lost(rloo_trainer, case, inputs)), abs=NEAR)


@given(case=cases(size=SIZE))
def test_gradients_of_grpo_and_rloo(case: Case) -> None:
    """By the log-probabilities now: theirs and ours."""
    for module, row, changes in ((grpo_trainer, "grpo", {}), (rloo_trainer, "rloo", {})):
        algorithm = replace(ALGORITHMS[row], high=0.28, kl=Kl(), cap=None)
        inputs, gradients = scored(module, case, **changes), []
        if module is grpo_trainer:
            inputs["old_per_token_logps"] = flush(case.old_BT, case.batch.mask_BT)
        for compute in (lambda now, a=algorithm: ours(a, now), lambda now, m=module, i=inputs: lost(m, now, i)):
            new_BT = case.new_BT.clone().requires_grad_()
            gradients += torch.autograd.grad(compute(replace(case, new_BT=new_BT)), new_BT)
        assert torch.allclose(*gradients, atol=NEAR)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(1, 20))
def test_the_soft_punishment_of_long_outputs(lengths: list[int], cache: int) -> None:
    from trl.rewards import get_soft_overlong_punishment

    reward = get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=cache)
    expected = reward(completion_ids=[[0] * length for length in lengths])
    assert overlong(torch.tensor(lengths), 20, cache).tolist() == pytest.approx(expected)


def test_where_we_differ() -> None:
    """A log-ratio beyond 20 is held there, so that no loss is infinite; a group of one is an error, not a zero."""
    huge = torch.full((1, 2), 800.0)
    assert bool(losses.token_ratio(huge, -huge, torch.ones(1, 2, dtype=torch.bool)).exp().isfinite().all())
    with pytest.raises(ValueError, match="alone in its group"):
        advantages.grpo(torch.ones(1), torch.zeros(1, dtype=torch.int64))

"""Policies and critics: their parameters are the flat buffer, and what they compute does not hang on how."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainers.small import KINDS, VOCABULARY, batch, folder
from trainers import attention, model
from trainers.algorithms import ALGORITHMS
from trainers.micro import inputs
from trainers.model import Critic, Policy
from trainers.optimiser import AdamW
from trainers.settings import Settings
from trainers.trainer import Trainer

CPU = torch.device("cpu")
GRPO = ALGORITHMS["grpo"]
SMALL = Settings(dtype="float32", budget=60, optimiser=AdamW(rate=1e-2), critic=AdamW(rate=1e-2))


def told(figures: dict[str, float]) -> dict[str, float]:
    """Without what a clock says."""
    return {name: value for name, value in figures.items() if not name.endswith("_s")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_parameters_are_the_buffer(kind: str, dtype: str, tmp_path: Path) -> None:
    trainer = Trainer(folder(tmp_path, kind), GRPO, replace(SMALL, dtype=dtype))
    buffer, slots = trainer.weights()
    parameters = list(trainer.policy.network.parameters())
    assert sum(p.nbytes for p in parameters) == sum(slot.bytes for slot in slots)
    assert {p.untyped_storage().data_ptr() for p in parameters} == {buffer.untyped_storage().data_ptr()}
    buffer.zero_()
    assert all(not p.any() for p in parameters)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_changes_the_buffer_in_place(dtype: str, tmp_path: Path) -> None:
    trainer = Trainer(folder(tmp_path), GRPO, replace(SMALL, dtype=dtype))
    address, before = trainer.weights()[0].data_ptr(), trainer.weights()[0].clone()
    logprobs = trainer.logprobs(batch())[0]
    trainer.train(batch())
    assert trainer.weights()[0].data_ptr() == address
    assert not torch.equal(trainer.weights()[0], before)
    assert not torch.equal(trainer.logprobs(batch())[0], logprobs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_rate_of_zero_changes_nothing(dtype: str, name: str, tmp_path: Path) -> None:
    idle = AdamW(rate=0.0, decay=0.1)
    settings = replace(SMALL, dtype=dtype, optimiser=idle, critic=idle, minibatches=2)
    trainer = Trainer(folder(tmp_path), ALGORITHMS[name], settings)
    before, logprobs = trainer.weights()[0].clone(), trainer.logprobs(batch())[0]
    first, second = (told(trainer.train(batch())) for _ in range(2))
    assert torch.equal(trainer.weights()[0], before)
    assert torch.equal(trainer.logprobs(batch())[0], logprobs)
    assert first["gradient_norm"] > 0
    assert all(second[k] == first[k] for k in ("entropy", "mismatch_mean", "mismatch_max", "reward"))


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_is_the_same(kind: str, tmp_path: Path) -> None:
    trainer = Trainer(folder(tmp_path / "model", kind), ALGORITHMS["ppo"], SMALL)
    trainer.train(batch())
    trainer.save(str(tmp_path / "saved"))
    other = Trainer(str(tmp_path / "saved"), ALGORITHMS["ppo"], SMALL)
    assert torch.equal(other.weights()[0], trainer.weights()[0])
    assert other.weights()[1] == trainer.weights()[1]
    assert other.reference and trainer.reference
    other.resume(str(tmp_path / "saved"))
    other.reference.held.buffer.copy_(trainer.reference.held.buffer)
    assert told(other.train(batch(1))) == told(trainer.train(batch(1)))
    assert torch.equal(other.weights()[0], trainer.weights()[0])


def test_masters_keep_what_bfloat16_forgets(tmp_path: Path) -> None:
    """Steps far below a weight's last bit must add up."""
    trainer = Trainer(folder(tmp_path), GRPO, replace(SMALL, dtype="bfloat16", optimiser=AdamW(rate=2e-5)))
    before = trainer.weights()[0].view(torch.bfloat16).clone()
    moved = []
    for _ in range(20):
        trainer.train(batch())
        moved.append(int((trainer.weights()[0].view(torch.bfloat16) != before).sum()))
    assert moved[0] < moved[4] < moved[19]
    held = trainer.policy.held
    rounded = {slot.name: tensor for slot, tensor in zip(held.slots, trainer.policy.tensors().values(), strict=True)}
    assert all(torch.equal(master.bfloat16(), rounded[name]) for name, master in held.masters.items())


def test_random_weights_are_those_of_the_seed(tmp_path: Path) -> None:
    first, again, other = (
        Trainer(folder(tmp_path), GRPO, replace(SMALL, seed=seed)).weights()[0] for seed in (0, 0, 1)
    )  # fmt: skip
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3_moe"])
def test_packed_and_padded_sequences_say_the_same(kind: str, tmp_path: Path) -> None:
    found = [Trainer(folder(tmp_path, kind), ALGORITHMS["ppo"], replace(SMALL, pack=pack)) for pack in (False, True)]
    for seed in range(3):
        padded, packed = (told(trainer.train(batch(seed))) for trainer in found)
        assert packed == pytest.approx(padded, abs=2e-5, rel=1e-4)
    expected = found[0].logprobs(batch(9))[0]
    torch.testing.assert_close(found[1].logprobs(batch(9))[0], expected, atol=1e-4, rtol=1e-4)


def test_log_probabilities_are_those_of_transformers(tmp_path: Path) -> None:
    trainer, given = Trainer(folder(tmp_path), GRPO, replace(SMALL, temperature=0.7)), batch()
    found, entropy = trainer.logprobs(given, entropy=True)
    assert entropy is not None
    for row in range(len(given.reward_B)):
        tokens = given.tokens_BT[row, : given.length_B[row]]
        logits = trainer.policy.network.hf(input_ids=tokens[None]).logits[0, :-1] / 0.7
        scores = logits.log_softmax(-1)
        own = given.mask_BT[row, 1 : len(tokens)]
        expected = scores.gather(1, tokens[1:, None])[own, 0]
        torch.testing.assert_close(found[row][given.mask_BT[row]], expected)
        torch.testing.assert_close(entropy[row][given.mask_BT[row]], -(scores.exp() * scores).sum(-1)[own])


@pytest.mark.parametrize("budget", [20, 10_000])
def test_micro_batches_add_up(budget: int, tmp_path: Path) -> None:
    whole, cut = (Trainer(folder(tmp_path), GRPO, replace(SMALL, budget=b)) for b in (1000, budget))
    assert told(cut.train(batch())) == pytest.approx(told(whole.train(batch())), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("pack", [False, True])
def test_checkpointed_activations_change_nothing(pack: bool, tmp_path: Path) -> None:
    settings = replace(SMALL, pack=pack)
    kept, again = (
        Trainer(folder(tmp_path), ALGORITHMS["ppo"], replace(settings, checkpointing=on)) for on in (False, True)
    )  # fmt: skip
    runs: list[int] = []
    for trainer in (kept, again):
        layer, before = model.layers(trainer.policy.network.hf)[0], len(runs)
        layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))  # type: ignore[union-attr]
        micro = next(trainer.passes.micro(batch(), range(12)))
        trainer.policy.network(micro.inputs)[0].sum().backward()
        assert len(runs) - before == (2 if trainer is again else 1)
        trainer.policy.held.clear()
    assert told(kept.train(batch())) == told(again.train(batch()))
    assert torch.equal(kept.weights()[0], again.weights()[0])


def test_the_varlen_kernel_is_given_what_it_takes(tmp_path: Path) -> None:
    """The kernel runs on GPUs alone: here one that computes what it documents stands for it."""

    def kernel(
        query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
        *, scale: float | None = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        assert window_size == (-1, 0) and enable_gqa and cu_seq_q.dtype == torch.int32
        assert cu_seq_q[0] == 0 and cu_seq_q[-1] == len(query) and int(cu_seq_q.diff().max()) <= max_q
        out = torch.empty_like(query)
        for begin, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
            part = (one[begin:end].transpose(0, 1) for one in (query, key, value))
            found = torch.nn.functional.scaled_dot_product_attention(
                *part, is_causal=True, scale=scale, enable_gqa=True
            )
            out[begin:end] = found.transpose(0, 1)
        return out

    import transformers

    transformers.AttentionInterface.register("as_varlen", attention.attention(kernel))
    found, expected = (
        Policy(model.load(folder(tmp_path), torch.float32, CPU, attention_by=way)) for way in ("as_varlen", "sdpa")
    )  # fmt: skip
    for total in (0, 300):
        given = inputs(batch(), pack=True, total=total)
        torch.testing.assert_close(found(given)[0], expected(given)[0], atol=1e-5, rtol=1e-5)


def test_the_kernel_of_this_torch_takes_what_it_is_given() -> None:
    """Its arguments are told apart by name: of this torch's kernel at least those that are passed must be there."""
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    assert {"scale", "window_size"} <= known.keys()
    assert list(known)[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]


def test_a_critic_begins_at_zero_and_learns(tmp_path: Path) -> None:
    trainer = Trainer(folder(tmp_path), ALGORITHMS["ppo"], SMALL)
    assert trainer.critic
    first = trainer.values(batch())
    assert first is not None and not first.any()
    losses = [trainer.train(batch())["value"] for _ in range(12)]
    assert losses[-1] < losses[0] / 2
    buffers = {trainer.critic.held.buffer.data_ptr(), trainer.policy.held.buffer.data_ptr()}
    assert len(buffers) == 2


@pytest.mark.parametrize("tied", [False, True])
def test_a_critic_has_no_lm_head(tied: bool, tmp_path: Path) -> None:
    critic = Critic(model.load(folder(tmp_path, tied=tied), torch.float32, CPU))
    names = dict(critic.named_parameters())
    assert "value.weight" in names and names["value.weight"].shape == (1, 32)
    assert "hf.lm_head.weight" not in names


def test_it_learns_what_it_is_told(tmp_path: Path) -> None:
    trainer = Trainer(folder(tmp_path), GRPO, SMALL)
    losses = [trainer.imitate(batch())["loss"] for _ in range(30)]
    assert losses[0] == pytest.approx(math.log(VOCABULARY), rel=0.05)
    assert losses[-1] < 1


def test_the_reference_stays_until_it_is_anchored(tmp_path: Path) -> None:
    trainer = Trainer(folder(tmp_path), GRPO, SMALL)
    assert trainer.train(batch())["kl"] == 0
    first = trainer.reference_logprobs(batch())
    assert trainer.train(batch())["kl"] > 0
    again = trainer.reference_logprobs(batch())
    assert first is not None and again is not None and torch.equal(first, again)
    trainer.anchor()
    assert trainer.train(batch())["kl"] == 0


def test_minibatches_take_as_many_steps(tmp_path: Path) -> None:
    trainer = Trainer(folder(tmp_path), GRPO, replace(SMALL, minibatches=3, epochs=2))
    assert trainer.train(batch())["steps"] == 6
    assert trainer.policy.optimiser.steps == 6
    with pytest.raises(ValueError, match="3 minibatches of 2 sequences"):
        trainer.train(batch(prompts=1, group=2))


def changed(path: Path, **values: Any) -> str:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | values))
    return str(path)


def test_bad_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no config"):
        model.load(str(tmp_path / "empty"), torch.float32, CPU)
    with pytest.raises(ValueError, match="does not exist"):
        model.load(str(tmp_path / "none"), torch.float32, CPU)
    folder(tmp_path / "capped")
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        model.load(changed(tmp_path / "capped", final_logit_softcapping=30.0), torch.float32, CPU)


def test_experts_that_no_buffer_holds_in_one_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, "qwen3_moe")
    path = changed(tmp_path, moe_intermediate_size=3, hidden_size=6, head_dim=8)
    with pytest.raises(ValueError, match="no multiple of 16"):
        Trainer(path, GRPO, replace(SMALL, dtype="bfloat16"))

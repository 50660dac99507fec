"""A step as docs/trainers.md has it, on a causal LM of Hugging Face with random weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from trainers.algorithms import ALGORITHMS, Kl, loss, prepare
from trainers.batch import Batch, build, group_ids
from trainers.logprobs import before, logprobs_and_entropy, spread
from trainers.tasks import Copying
from trainers.tasks.task import Alphabet


def model() -> Any:
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return transformers.Qwen2ForCausalLM(config).double()


def batch() -> Batch:
    """Random answers to four prompts, twice each, with their rewards."""
    task, codec, random = Copying(), Alphabet(), torch.Generator().manual_seed(0)
    examples = [example for example in task.examples(4, 0) for _ in range(2)]
    outputs = [
        torch.randint(2, 32, (int(n),), generator=random).tolist() for n in torch.randint(1, 9, (8,), generator=random)
    ]
    rewards = [task.reward(example, [codec.decode(output)]) for example, output in zip(examples, outputs, strict=True)]
    rewards[0] += 1
    return build(
        [codec.encode(example.prompt) for example in examples], outputs, None, rewards, group_ids(8, 2),
        ended=[True] * 8, limit=8,
    )  # fmt: skip


def scores(policy: Any, rows: Batch) -> tuple[Tensor, Tensor]:
    hidden_BTD = policy.model(input_ids=rows.tokens_BT, attention_mask=rows.valid_BT.long()).last_hidden_state
    hidden_ND, target_N = before(hidden_BTD, rows.mask_BT), rows.tokens_BT[rows.mask_BT]
    logp_N, entropy_N = logprobs_and_entropy(hidden_ND, policy.lm_head.weight, target_N, chunk=5)
    return spread(logp_N, rows.mask_BT), spread(entropy_N, rows.mask_BT)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_give_the_gradient_of_the_batch(name: str, size: int) -> None:
    policy, rows = model(), batch()
    algorithm = replace(ALGORITHMS[name], kl=Kl("k3", "loss", 0.1), entropy=0.1, cap=None, overlong=0.0)
    with torch.no_grad():
        old_BT, _ = scores(policy, rows)
    value_BT = torch.zeros_like(old_BT)
    targets = prepare(algorithm, rows, old_BT - 0.1, old_BT - 0.2, value_BT)
    gradients = []
    for step in (8, size):
        policy.zero_grad()
        for start in range(0, 8, step):
            part = slice(start, start + step)
            total, _ = loss(algorithm, targets.rows(part), *scores(policy, rows.rows(part)), value_BT[part])
            total.backward()  # type: ignore[no-untyped-call]
        gradients.append(torch.cat([weight.grad.flatten() for weight in policy.parameters()]))
    assert bool(gradients[0].any())
    assert torch.allclose(*gradients, atol=1e-12)

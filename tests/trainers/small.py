"""Models of some thousand parameters, and batches for them."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from harness.shapes import SHAPES, configuration
from trainers.batch import Batch, build, group_ids

KINDS = {"llama": "tiny-llama", "qwen2": "tiny-qwen2", "qwen3": "tiny-qwen3", "qwen3_moe": "tiny-moe"}
VOCABULARY = 64


def folder(at: Path, kind: str = "qwen2", tied: bool = False) -> str:
    """A folder with a model's configuration alone."""
    shape = replace(
        SHAPES[KINDS[kind]], hidden=32, layers=2, intermediate=64, vocab=VOCABULARY, head_dim=8, tied=tied, context=128
    )
    if shape.experts:
        shape = replace(shape, experts=4, expert_inner=16)
    at.mkdir(parents=True, exist_ok=True)
    (at / "config.json").write_text(json.dumps(configuration(shape) | {"bos_token_id": 1, "eos_token_id": 2}))
    return str(at)


def batch(seed: int = 0, prompts: int = 3, group: int = 4) -> Batch:
    """Random tokens of differing lengths."""
    random = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> list[int]:
        count = int(torch.randint(low, high, (), generator=random))
        found: list[int] = torch.randint(3, VOCABULARY, (count,), generator=random).tolist()
        return found

    asked = [one for _ in range(prompts) for one in [tokens(2, 9)] * group]
    given = [tokens(1, 13) for _ in asked]
    rewards: list[float] = torch.rand(len(asked), generator=random).tolist()
    logprobs = [[-3.0] * len(one) for one in given]
    groups = group_ids(len(asked), group)
    return build(asked, given, logprobs, rewards, groups, ended=[len(one) < 12 for one in given], limit=12)

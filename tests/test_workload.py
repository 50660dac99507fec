"""Workloads: repeatable, and without a prefix that an engine could share."""

import numpy as np

from harness.rollouts import token_hash
from harness.workload import random_prompts


def test_a_seed_is_a_workload() -> None:
    a, b, other = (random_prompts(seed, 8, 20, 5, 1000) for seed in ((0, 1), (0, 1), (0, 2)))
    assert token_hash(a.ids_BL) == token_hash(b.ids_BL) != token_hash(other.ids_BL)
    assert a.output_B.tolist() == [5] * 8
    # Pinned: a change of this hash makes old records incomparable, and must raise the schema.
    assert token_hash(a.ids_BL) == "b955697ceb18e35f2c9b7f203df7797d7c423c678a899cebd7d33f6dbd8b7016"


def test_no_two_prompts_begin_alike() -> None:
    ids = random_prompts((3,), 512, 4, 1, 600).ids_BL
    assert len(np.unique(ids[:, 0])) == 512
    assert ids.min() >= 0
    assert ids.max() < 600


def test_more_requests_than_tokens_still_make_prompts() -> None:
    assert random_prompts((3,), 20, 4, 1, 8).ids_BL.shape == (20, 4)

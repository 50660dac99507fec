"""Workloads from seeds, as token ids: the same to every engine."""

import numpy as np

from harness.rollouts import Prompts


def random_prompts(seed: int, index: int, requests: int, input_tokens: int, output_tokens: int, vocab: int) -> Prompts:
    """Prompts of uniformly random token ids, other ones for each `index`, so that no prefix is met twice."""
    random = np.random.default_rng([seed, index])
    ids_BL = random.integers(0, vocab, (requests, input_tokens), dtype=np.int32)
    return Prompts(ids_BL, np.full(requests, output_tokens, np.int32))

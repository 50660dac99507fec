"""Workloads from seeds, as token ids: the same to every engine."""

from collections.abc import Sequence

import numpy as np

from harness.rollouts import Prompts


def random_prompts(seed: Sequence[int], requests: int, input_tokens: int, output_tokens: int, vocab: int) -> Prompts:
    """Prompts of uniformly random token ids. Another step takes another seed, so that no prefix is met twice."""
    ids_BL = np.random.default_rng(seed).integers(0, vocab, (requests, input_tokens), dtype=np.int32)
    return Prompts(ids_BL, np.full(requests, output_tokens, np.int32))

"""Workloads from seeds, as token ids: the same to every engine."""

from collections.abc import Sequence

import numpy as np

from harness.rollouts import Prompts


def random_prompts(seed: Sequence[int], requests: int, input_tokens: int, output_tokens: int, vocab: int) -> Prompts:
    """Prompts of uniformly random token ids that share no prefix: each begins with a token of its own (as far as the
    vocabulary goes), since an engine may cache a single token. Another step takes another seed."""
    random = np.random.default_rng(seed)
    ids_BL = random.integers(0, vocab, (requests, input_tokens), dtype=np.int32)
    first = min(requests, vocab)
    ids_BL[:first, 0] = random.choice(vocab, first, replace=False)
    return Prompts(ids_BL, np.full(requests, output_tokens, np.int32))

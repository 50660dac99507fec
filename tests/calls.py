"""Calls for tests: requests, rollouts of them with nothing wrong, and what the audit says."""

from dataclasses import replace
from typing import Any

import numpy as np

from harness.audit import Audit
from harness.rollouts import Requests, Rollouts, ids_hash, padded
from harness.workload import conversations, independent


def batch(count: int = 4, tokens: int = 5) -> Requests:
    """Prompts of 300 tokens that share nothing."""
    return independent((1,), [300] * count, [tokens] * count, 5000)


def talks(pause: float = 0.0) -> Requests:
    """Two conversations of two turns behind 200 tokens of a system prompt: prompts of 300 and 405."""
    return conversations((1,), 2, 2, 200, 100, 5, pause, 5000)


def played(requests: Requests, **changes: Any) -> Rollouts:
    """Rollouts with nothing wrong: sent when due, 0.1 s to the first token, 1 s to the last, 2 s in all."""
    rows = padded([[7] * count for count in requests.output_B.tolist()])
    due = np.zeros(len(requests.output_B))
    for places in requests.conversations:
        due[places] = np.cumsum(requests.due_B[places]) + np.arange(len(places))
    out = Rollouts(
        tokens_BT=rows,
        logprobs_BT=np.empty((len(rows), 0), np.float32),
        prompt_B=requests.prompt_B.astype(np.int32),
        cached_B=np.zeros(len(rows), np.int32),
        queued_B=np.full(len(rows), np.nan),
        due_B=due,
        sent_B=due,
        first_B=due + 0.1,
        done_B=due + 1.0,
        gaps_N=np.empty(0),
        preemptions=np.array(0),
        seconds=np.array(float(due.max()) + 2.0),
        prompts_sha256=np.array(ids_hash(requests.prompts(rows))),
    )
    return replace(out, **changes)


def audited(requests: Requests, out: Rollouts, floor: float = 0.0, caching: bool = True) -> Audit:
    found = Audit(caching)
    found.add(requests, out, floor)
    return found


def red(found: Audit) -> list[str]:
    return [name for name, certificate in found.certificates().items() if certificate.ok is False]

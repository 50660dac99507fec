"""The proof of a weight sync: what is in the engine is what was sent, and nothing of the old weights serves."""

import numpy as np

from harness import fresh
from harness.adapterlink import AdapterLink
from harness.fresh import greedy
from harness.link import Link
from harness.record import Certificate
from harness.rollouts import Rollouts
from harness.senders import Senders

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}  # of log-probabilities between two loads or engines
# Of prompts whose token must be the same with an adapter and with it merged: W x + B A x is rounded otherwise than
# (W + B A) x, so that in 16 bits near ties may fall the other way.
SHARE = {"float32": 1.0, "bfloat16": 0.5, "float16": 0.5}


def prove(link: Link, step: int) -> Certificate:
    """Bring in the weights of another step, and hold what is there against what the engine's own loader makes of the
    same weights: every parameter's hash, or where the engine hides its parameters the outputs; and against the outputs
    of the engine when it was started on them, where it was. The prefix cache of the old weights must give nothing."""
    before = greedy(link.rig)
    link.update(step)
    link.sync()
    after = greedy(link.rig)
    wrong = [f"{n} prompt tokens from the old prefix cache"] if (n := int(after.cached_B.sum())) else []
    if gap(before, after) <= tolerance(link):
        wrong.append("outputs did not change with the weights")
    seen, sent = link.ask(do="sent"), link.sent()
    if any(rank not in (None, sent) for rank in seen):
        wrong.append("the engine sees other bytes than the senders hold")
    how, different = _by_hashes(link, step) if link.hashable() else _by_outputs(link, after, step)
    wrong += [different] if different else []
    if link.rig.fresh is not None and step == fresh.STEP and not link.merged_rank:
        apart = gap(link.rig.fresh, after)
        how += f" and the outputs of an engine started on them (log-probabilities at most {apart:.1e} apart)"
        wrong += ["outputs are not those of an engine started on the same weights"] if apart > tolerance(link) else []
    return Certificate(ok=not wrong, figure=len(wrong), reason="; ".join(wrong) or f"proved by {how}")


def prove_adapter(link: AdapterLink, step: int) -> Certificate:
    """Bring in the adapter of another step. Outputs must be those of whole weights with it merged in, which the
    engine's loader brings in below an adapter that changes nothing; the old adapter's prefix cache gives nothing."""
    allowed, share = tolerance(link), SHARE[link.rig.options.dtype]
    before = greedy(link.rig)
    link.update(step)
    link.sync()
    after = greedy(link.rig)
    link.update(None)
    link.sync()
    link.whole(step)
    whole = greedy(link.rig)
    wrong = [f"{n} prompt tokens from the old prefix cache"] if (n := int(after.cached_B.sum())) else []
    if apart(before, after, 1 - share) <= allowed:
        wrong.append("outputs did not change with the adapter")
    if (gap := apart(after, whole, share)) > allowed:
        wrong.append(f"outputs are not those of weights with the adapter merged in: log-probabilities {gap:.1e} apart")
    how = f"proved by log-probabilities of merged weights (at most {gap:.1e} apart for {share:.0%} of the prompts)"
    return Certificate(ok=not wrong, figure=len(wrong), reason="; ".join(wrong) or how)


def apart(one: Rollouts, other: Rollouts, share: float) -> float:
    """The gap of the first tokens' log-probabilities up to which a share of the prompts agree; infinite between other
    tokens."""
    gaps_B = np.abs(one.logprobs_BT[:, 0] - other.logprobs_BT[:, 0])
    gaps_B = np.where(one.tokens_BT[:, 0] == other.tokens_BT[:, 0], gaps_B, np.inf)
    return float(np.quantile(gaps_B, share, method="lower"))


def _by_hashes(link: Link, step: int) -> tuple[str, str]:
    """Hashes after two syncs, each over scrambled parameters, against those after the same weights came another way."""
    found = []
    for number in range(3):
        link.ask(do="scramble", value=0.5 + number)  # what nobody writes differs each time
        if number < 2:
            link.sync()
        else:
            link.reference(step)
        found.append(link.ask(do="hashes"))
    *mine, reference = found
    count = sum(len(rank) for rank in reference)
    off = [name for again in mine for got, want in zip(again, reference, strict=True)
           for name in want if got.get(name) != want[name]]  # fmt: skip
    different = f"{len(off)} of {2 * count} parameters are not what the engine's loader makes of them: {off[:3]}"
    return f"the hashes of {count} parameters after each of two syncs", different if off else ""


def _by_outputs(link: Link, after: Rollouts, step: int) -> tuple[str, str]:
    """Outputs after the sync against those after the engine read a checkpoint of the same weights."""
    link.read_checkpoint(step)
    apart = gap(after, greedy(link.rig))
    how = f"log-probabilities (at most {apart:.1e} apart) of a checkpoint of the same weights"
    if apart <= tolerance(link):
        return how, ""
    return how, f"outputs are not those of a checkpoint of the same weights: log-probabilities {apart:.1e} apart"


def tolerance(link: Senders) -> float:
    return TOLERANCE[link.rig.options.dtype]


def gap(one: Rollouts, other: Rollouts) -> float:
    """The largest difference of the first tokens' log-probabilities. Where two tokens are all but equally likely, which
    of them is chosen may flip; how likely the chosen one is does not."""
    return float(np.abs(one.logprobs_BT[:, 0] - other.logprobs_BT[:, 0]).max())

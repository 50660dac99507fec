"""A call of the rig that a weight sync interrupts: what the sync cost, and whether it did what it says."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness import fresh, proof
from harness.record import Certificate
from harness.rollouts import Requests, Rollouts

if TYPE_CHECKING:
    from harness.link import Link
    from harness.rig import Rig

Mode = Literal["abort", "drain", "keep", "recompute"]
ALIKE = 4  # tokens that prompts may begin with alike by chance: of what was asked again under the new weights


@dataclass(frozen=True)
class Interruption:
    """When a sync comes, and what becomes of the requests in flight (`harness.worker.engines.Engine.pause`): when
    `share` of the tokens asked for are out, or `seconds` from the start of the call, whichever comes first."""

    mode: Mode
    share: float = 0.5
    seconds: float | None = None


@dataclass(frozen=True)
class Sync:
    """What a sync in the middle of a call did.

    Seconds: `send` of the senders, before the call; `pause` until nothing ran; `worker` in the engine's model
    processes; `control` around it; `forget` of the prefix cache; `resume` of the call to go on; `first` from that call
    to the first output behind it (None: there was none); `gap`, the longest time without an output around it all.

    `in_flight`: requests when it began, `aborted` those sent again, `lost` their tokens. `late`: requests that went to
    the engine behind it, `late_cached` their prompt tokens from the prefix cache. `forgotten`: the engine emptied its
    prefix cache before it went on; `forgotten_at_last`: behind the call, at the latest. `old`: tokens of the call, of
    `tokens` in all, that were out before the weights changed.
    """

    mode: Mode
    send: float
    pause: float
    worker: float
    control: float
    forget: float
    resume: float
    first: float | None
    gap: float
    in_flight: int
    aborted: int
    lost: int
    late: int
    late_cached: int
    forgotten: bool
    forgotten_at_last: bool
    old: int
    tokens: int

    @property
    def facts(self) -> dict[str, Any]:
        return asdict(self)

    def figures(self) -> dict[str, float]:
        """Samples of metrics of METRICS."""
        found = {
            "sync_pause": self.pause,
            "sync_worker": self.worker,
            "sync_control": self.control,
            "sync_gap": self.gap,
            "tokens_lost": self.lost / self.tokens,
            "tokens_old": self.old / self.tokens,
        }
        found |= {"sync_resume": self.first} if self.first is not None else {}
        return found | ({"sync_flush": self.forget} if self.forgotten else {})

    def wrong(self, caching: bool) -> Iterable[str]:
        """What this sync did otherwise than its mode says. `caching`: whether the engine has a prefix cache."""
        if not self.in_flight:
            yield "no request was in flight"
        if caching and self.mode == "recompute" and not self.forgotten:
            yield "the engine refused to empty its prefix cache, and took prompts of the old weights from it"
        if caching and not self.forgotten and self.late_cached:
            yield f"{self.late_cached} prompt tokens of later requests came from a prefix cache of the old weights"
        if caching and not self.forgotten_at_last:
            yield "the prefix cache of the old weights stayed behind the call"


def generate(
    rig: "Rig", link: "Link", requests: Requests, interruption: Interruption, *, temperature: float,
    concurrency: int = 0, audited: bool = True,
) -> tuple[Rollouts, Sync]:  # fmt: skip
    """`Rig.generate`, streamed, with a sync of the link's weights on its way. Raises LaunchFailed when all requests
    were done before the sync was due."""
    request, send = offered(link)
    halt = asdict(interruption) | {"request": request}
    rig.worker.must_live("generate")
    into, back = rig.worker.folder / "requests", rig.worker.folder / "rollouts"
    found: dict[str, Any] = rig.worker.call(
        "generate_halted", rig.timeout, requests=str(into), layout=requests.save(into), rollouts=str(back),
        concurrency=concurrency, sampling={"temperature": temperature}, halt=halt,
    ).value  # fmt: skip
    out = Rollouts.load(back, found["layout"])
    if audited:
        rig.audit.add(requests, out, 0.0)
    counted: dict[str, Any] = {"send": send, "old": int(out.old_B.sum()), "tokens": int(out.output_B.sum())}
    return out, Sync(**found["sync"], **counted)


def offered(link: "Link") -> tuple[dict[str, Any], float]:
    """The request that brings in what the senders have sent, and the seconds that it took to send. Raises ValueError
    for a transport that sends while the engine takes."""
    if link.together:
        raise ValueError(f"{link.transport} sends while the engine takes: take one that sends before, ipc, shm or disk")
    return {"do": "sync", "how": link.how}, link.send()


def prove(rig: "Rig", link: "Link", step: int, requests: Requests, interruption: Interruption) -> Certificate:
    """Interrupt a call with the weights of another step. Behind it the engine must answer as it does after the same
    weights came in while it was idle, not as before, and nothing may come from the prefix cache of the old ones."""
    before = fresh.greedy(rig)
    link.update(step)
    generate(rig, link, requests, interruption, temperature=0.0, audited=False)
    after = fresh.greedy(rig)
    link.sync()
    apart, allowed = proof.gap(after, fresh.greedy(rig)), proof.tolerance(link)
    old = int(after.cached_B[after.cached_B > ALIKE].sum())
    wrong = [f"{old} prompt tokens from the old prefix cache"] if old else []
    if proof.gap(before, after) <= allowed:
        wrong.append("outputs did not change with the weights")
    if apart > allowed:
        wrong.append(f"log-probabilities {apart:.1e} apart from those of the same weights brought in while idle")
    reason = "; ".join(wrong) or f"log-probabilities at most {apart:.1e} apart from those of the same weights"
    return Certificate(ok=not wrong, figure=len(wrong), reason=reason)


def certificate(syncs: Iterable[Sync], caching: bool) -> Certificate:
    """Whether each sync did what its mode says."""
    wrong = [reason for sync in syncs for reason in sync.wrong(caching)]
    reason = "; ".join(dict.fromkeys(wrong)) or "every sync met requests in flight and did with them as declared"
    return Certificate(ok=not wrong, figure=len(wrong), reason=reason)

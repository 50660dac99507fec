"""A sender of weights and the engine that takes them in, joined by one transport: sync, and prove that it happened."""

import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import models
from harness.client import Reply, Worker
from harness.record import Certificate
from harness.rollouts import Rollouts
from harness.workload import independent

if TYPE_CHECKING:
    from harness.rig import Rig

SENDER = "harness.worker.holder"
RANKS = 1  # processes that each hold a part of the model
PROOF_SEED, PROOF_INPUT, PROOF_OUTPUT = (
    77,
    300,
    16,
)  # the batch whose outputs are looked at; longer than a cache's block
LOGPROB_TOLERANCE = 1e-3  # between two loads of the same weights, where parameters cannot be hashed


class Link(ExitStack):
    """Weights of the rig's model in a process of their own, sent over `transport`; `how` the receiver brings them in:
    `graph`, `foreach` or `copies` replay a plan, `loader` is the engine's own."""

    def __init__(self, rig: "Rig", transport: str, how: str) -> None:
        super().__init__()
        self.rig, self.transport, self.how = rig, transport, how
        self.facts: dict[str, Any] = {"transport": transport, "how": how}
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        rig, env = self.rig, self.rig.environment
        log, variables = rig.log.with_suffix(".sender.log"), rig.variables(local=True)
        self.sender = self.enter_context(Worker(env.engine, env.python, log, variables, env.paths, SENDER))
        dtype, tensors = rig.options.dtype, [[name, list(size)] for name, size in models.tensors_of(rig.model)]
        held = self._send("hold", tensors=tensors, dtype=dtype, device=env.device).value
        self.update(0)
        self.model = models.find(rig.model).path
        self.disk = self.enter_context(tempfile.TemporaryDirectory(prefix="weights-", dir=rig.log.parent))
        address = self._send("offer", transport=self.transport, folder=self._folder(), model=self.model).value
        self._send("send", transport=self.transport)
        plan = self.ask(do="open", transport=self.transport, address=address, slots=held["slots"], dtype=dtype)[0]
        self.bytes = int(held["bytes"])
        self.floor = float(self.ask(do="floor", size=self.bytes)[0])
        self.facts |= {"bytes": self.bytes, "sender_bytes": held["buffer"], "floor_s": self.floor, "plan": plan}

    def _folder(self) -> str:
        """Where what is sent lies: on a disk for `disk`, else in shared memory."""
        return self.disk if self.transport == "disk" else str(self.rig.worker.folder)

    def update(self, step: int) -> None:
        """The sender's weights become those of another step."""
        self._send("update", step=step)

    def sync(self) -> dict[str, float]:
        """Bring the sender's weights into the engine and empty its prefix cache: seconds of each part, and of all."""
        pack = self._send("send", transport=self.transport).seconds
        reply = self.rig.worker.call(
            "weights", self.rig.timeout, request={"do": "sync", "how": self.how}, flush=True
        )  # fmt: skip
        load = max(answer["load"] for answer in reply.value)
        seconds = pack + reply.seconds
        return {
            "sync_latency": seconds,
            "sync_send": pack,
            "sync_load": load,
            "sync_control": reply.seconds - load,
            "sync_bandwidth": self.bytes / seconds / 1e9,
            "sync_floor_ratio": seconds / self.floor,
        }

    def prove(self, step: int) -> Certificate:
        """Bring in the weights of another step, and hold what is there against what the engine's own loader makes of
        the same weights: every parameter's hash, or where the engine hides its parameters the outputs. The prefix cache
        of the old weights must give nothing."""
        before = self._greedy()
        self.update(step)
        self.sync()
        after = self._greedy()
        wrong = [f"{n} prompt tokens from the old prefix cache"] if (n := int(after.cached_B.sum())) else []
        if np.array_equal(before.tokens_BT, after.tokens_BT):
            wrong.append("outputs did not change with the weights")
        if any(seen not in (None, self._send("sent").value) for seen in self.ask(do="sent")):
            wrong.append("the engine sees other bytes than the sender holds")
        how, different = self._by_hashes() if self._hashable() else self._by_outputs(after)
        wrong += [different] if different else []
        return Certificate(ok=not wrong, figure=len(wrong), reason="; ".join(wrong) or f"proved by {how}")

    def _hashable(self) -> bool:
        """Whether hashes see all that was sent, not the few parameters that an engine leaves visible."""
        return all(seen * RANKS >= self.bytes for seen in self.ask(do="bytes"))

    def _by_hashes(self) -> tuple[str, str]:
        """Hashes after two syncs, each over scrambled parameters, against those after the engine's loader."""
        found = []
        for number, how in enumerate((self.how, self.how, "loader")):
            self.ask(do="scramble", value=0.5 + number)  # what nobody writes differs each time
            self.ask(do="sync", how=how)
            found.append(self.ask(do="hashes"))
        *mine, reference = found
        count = sum(len(rank) for rank in reference)
        off = [name for again in mine for got, want in zip(again, reference, strict=True)
               for name in want if got.get(name) != want[name]]  # fmt: skip
        different = f"{len(off)} of {2 * count} parameters are not what the engine's loader makes of them: {off[:3]}"
        return f"the hashes of {count} parameters after each of two syncs", different if off else ""

    def _by_outputs(self, after: Rollouts) -> tuple[str, str]:
        """Outputs after the sync against those after the engine read a checkpoint of the same weights."""
        address = self._send("offer", transport="disk", folder=self.disk, model=self.model).value
        self._send("send", transport="disk")
        self.ask(do="read", path=address["path"])
        self.rig.flush()
        reference = self._greedy()
        gap = float(np.abs(after.logprobs_BT - reference.logprobs_BT).max())
        same = np.array_equal(after.tokens_BT, reference.tokens_BT) and gap <= LOGPROB_TOLERANCE
        how = f"outputs and log-probabilities (at most {gap:.1e} apart) of a checkpoint of the same weights"
        return how, "" if same else f"outputs are not those of a checkpoint of the same weights, {gap:.1e} apart"

    def _greedy(self) -> Rollouts:
        """Outputs of a fixed batch, with what the prefix cache holds."""
        prompts = independent((PROOF_SEED,), [PROOF_INPUT] * 4, [PROOF_OUTPUT] * 4, self.rig.vocabulary)
        return self.rig.generate(prompts, temperature=0.0, logprobs=True, audited=False)

    def ask(self, **request: Any) -> Any:
        """The answers of the processes that hold a part of the model, by rank."""
        return self.rig.worker.call("weights", self.rig.timeout, request=request, flush=False).value

    def _send(self, name: str, **args: Any) -> Reply:
        return self.sender.call(name, self.rig.timeout, **args)

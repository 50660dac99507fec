"""Senders of weights and the engine that takes them in, joined by one transport."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from harness import models
from harness.client import Reply, Worker
from harness.errors import BadOffer
from harness.worker import offers, transports

if TYPE_CHECKING:
    from harness.rig import Rig

SENDER = "harness.worker.holder"


def holding(rig: "Rig", name: str, gpu: int, rank: int = 0, ranks: int = 1) -> tuple[Worker, dict[str, Any]]:
    """A sender that holds the model's weights or a rank's share of them, on the GPU of that number where the engine is
    on one; what it says of them."""
    env, tensors = rig.environment, [[name, list(size)] for name, size in models.tensors_of(rig.model)]
    who, log = f"sender of weights for {env.engine}", rig.log.with_suffix(f".{name}.log")
    sender = Worker(who, env.python, log, rig.variables(local=True), env.paths, SENDER)
    device = env.device if env.device == "cpu" else f"cuda:{gpu}"
    try:
        found = sender.call(
            "hold", rig.timeout, tensors=tensors, dtype=rig.options.dtype, device=device, rank=rank, ranks=ranks
        )
    except BaseException:
        sender.end()
        raise
    return sender, found.value


def fit(model: str, held: Sequence[dict[str, Any]]) -> None:
    """Raises BadOffer where senders hold other tensors than a model's checkpoint, or not all the same."""
    first, *others = ((one["slots"], one["dtype"]) for one in held)
    if any(other != first for other in others):
        raise BadOffer("the senders of weights hold not all the same tensors: give them one model and one dtype")
    offered = [(name, tuple(shape)) for name, shape, *_ in first[0]]
    if wrong := offers.unlike(offered, dict(models.tensors_of(model))):
        raise BadOffer(f"the senders' weights are not those of {model}: {wrong}")


class Link(ExitStack):
    """Weights of the rig's model in `senders` processes of their own, sent over `transport`; `how` the receivers bring
    them in: `graph`, `foreach` or `copies` replay a plan, `loader` is the engine's own. Several senders share the rows
    of each tensor. `colocated`: they are on the engine's GPUs, else on those behind them. `bucket`: MiB sent at once,
    where a transport does not offer the whole buffer. `patience`: seconds that a broadcast waits for the other side.

    Raises BadOffer where what is offered does not fit: the engine goes on. Whatever else goes wrong, in a sender or in
    the engine, ends all of them (LaunchFailed): the engine never serves weights of which nobody knows what they are."""

    def __init__(
        self, rig: "Rig", transport: str, how: str, senders: int = 1, colocated: bool = True, bucket: int = 64,
        patience: float = 60.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.rig, self.transport, self.how = rig, transport, how
        self.together = bool(transports.load(transport).TOGETHER)
        self.ranks, self.bucket, self.patience = rig.options.tensor_parallel, bucket, patience
        self.facts: dict[str, Any] = {"transport": transport, "how": how, "senders": senders, "colocated": colocated}
        try:
            self._hold(senders, 0 if colocated else self.ranks)
            self._open()
        except BaseException:
            self.close()
            raise

    def _hold(self, senders: int, first: int) -> None:
        """Start the senders, on the GPUs from the number `first` on, with weights that are not the engine's."""
        self.rig.worker  # noqa: B018, the engine takes its memory first
        self.senders, held = list[Worker](), list[dict[str, Any]]()
        for number in range(senders):
            sender, found = holding(self.rig, f"sender{number}", first + number, number, senders)
            self.senders.append(self.enter_context(sender))
            held.append(found)
        self.slots, self.dtype, self.bytes = held[0]["slots"], held[0]["dtype"], int(held[0]["bytes"])
        fit(self.rig.model, held)
        self.facts |= {"bytes": self.bytes, "sender_bytes": [one["buffer"] for one in held]}
        self.update(0)

    def _open(self) -> None:
        """Join them: the receivers plan from what the senders offer."""
        model = models.find(self.rig.model).path
        folder = self.enter_context(tempfile.TemporaryDirectory(prefix="weights-", dir=self._parent()))
        offer = {"transport": self.transport, "folder": folder, "model": model, "receivers": self.ranks}
        offer |= {"bucket": self.bucket << 20, "patience": self.patience}
        self.addresses = [reply.value for reply in self._send("offer", **offer)]
        if not self.together:
            self._send("send", transport=self.transport)
        opened = self.ask(
            do="open", transport=self.transport, addresses=self.addresses, slots=self.slots, dtype=self.dtype
        )  # fmt: skip
        self.facts |= {"plan": opened, "path": self.transport}
        floors = self.ask(do="floor", size=self.bytes // self.ranks)
        self.floor = max(floor["device"] for floor in floors)
        self.path_floor = max(floor.get("path", 0.0) for floor in floors)
        self.facts |= {"floor_s": self.floor, "path_floor_s": self.path_floor}

    def _parent(self) -> str:
        """Where what is sent lies: on a disk for `disk`, else in shared memory."""
        return str(self.rig.log.parent if self.transport == "disk" else self.rig.worker.folder)

    def update(self, step: int) -> None:
        """The senders' weights become those of another step."""
        self._send("update", step=step)

    def send(self) -> float:
        """Have the weights sent where the engine need not take part; seconds on the slowest sender's clock."""
        if self.together:
            return 0.0
        return max(reply.seconds for reply in self._send("send", transport=self.transport))

    def take(self, **options: Any) -> Reply:
        """Have the engine take in what was sent, or what is sent while it does; `options` are of
        `harness.worker.receive.Receiver.do_sync` and `flush`, which empties the prefix cache."""
        flush = options.pop("flush", False)
        request = {"do": "sync", "how": self.how} | options
        for sender in self.senders if self.together else ():
            sender.post("send", transport=self.transport)
        reply = self.rig.worker.call(
            "weights", self.rig.timeout, watch=self.senders, request=request, flush=flush
        )  # fmt: skip
        sent = [reply.seconds for reply in self._answers("send")] if self.together else []
        return Reply(reply.value, max([reply.seconds, *sent]))

    def sync(self) -> dict[str, float]:
        """Bring the senders' weights into the engine and empty its prefix cache, as fast as it goes: seconds of it all,
        and of the engine's model processes."""
        sent = self.send()
        reply = self.take(flush=True)
        seconds = sent + reply.seconds
        found = {
            "sync_latency": seconds,
            "sync_worker": max(answer["worker"] for answer in reply.value),
            "sync_bandwidth": self.bytes / seconds / 1e9,
            "sync_floor_ratio": seconds / self.floor,
        }
        return found | ({"sync_path_ratio": seconds / self.path_floor} if self.path_floor else {})

    def apart(self) -> dict[str, float]:
        """The same once more with a fence behind each part: seconds of each, of the slowest process."""
        sent = self.send()
        reply = self.take(apart=True)
        phases = {f"sync_{name}": max(answer[name] for answer in reply.value) for name in reply.value[0]}
        worker = phases.pop("sync_worker")
        phases |= {"sync_control": reply.seconds - worker, "sync_flush": self.rig.flush()}
        return phases | ({} if self.together else {"sync_pack": sent})

    def read_checkpoint(self, step: int) -> None:
        """Have the engine read a checkpoint of a step's weights, made apart from what is sent, and empty its cache."""
        with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=self.rig.log.parent) as folder:
            self.ask(do="read", path=self.checkpoint(step, folder))
        self.rig.flush()

    def checkpoint(self, step: int, folder: str) -> str:
        """Write a checkpoint of a step's weights into a folder; where it is."""
        path = f"{folder}/checkpoint"
        model = models.find(self.rig.model).path
        self.senders[0].call("checkpoint", self.rig.timeout, step=step, folder=path, model=model)
        return path

    def ask(self, **request: Any) -> Any:
        """The answers of the processes that hold a part of the model, by rank."""
        return self.rig.worker.call("weights", self.rig.timeout, request=request, flush=False).value

    def learned(self) -> None:
        """Note what the receivers know now, the time that capturing took among it."""
        self.facts["plan"] = [old | new for old, new in zip(self.facts["plan"], self.ask(do="facts"), strict=True)]

    def sent(self) -> list[int]:
        """A hash of what each sender holds."""
        return [reply.value for reply in self._send("sent")]

    def _send(self, name: str, **args: Any) -> list[Reply]:
        """All senders at once."""
        for sender in self.senders:
            sender.post(name, **args)
        return self._answers(name)

    def _answers(self, name: str) -> list[Reply]:
        everyone = [*self.senders, self.rig.worker]
        return [sender.answer(name, self.rig.timeout, everyone) for sender in self.senders]

    def end(self) -> list[str]:
        """Let go of what was opened and have the senders end; names of their processes that had to be killed."""
        if any(sender.ended for sender in self.senders):
            return []
        self.ask(do="close")
        return [name for sender in self.senders for name in sender.close()]

"""Senders of weights and the engine that takes them in, joined by one transport."""

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness import models
from harness.client import Reply
from harness.errors import BadOffer
from harness.senders import Senders
from harness.worker import offers, transports

if TYPE_CHECKING:
    from harness.rig import Rig

FASTEST = {"cpu": "copies", "cuda": "graph"}  # by device: how a plan is replayed


def fit(model: str, held: Sequence[dict[str, Any]]) -> None:
    """Raises BadOffer where senders hold other tensors than a model's checkpoint, or not all the same."""
    first, *others = ((one["slots"], one["dtype"]) for one in held)
    if any(other != first for other in others):
        raise BadOffer("the senders of weights hold not all the same tensors: give them one model and one dtype")
    offered = [(name, tuple(shape)) for name, shape, *_ in first[0]]
    if wrong := offers.unlike(offered, dict(models.tensors_of(model))):
        raise BadOffer(f"the senders' weights are not those of {model}: {wrong}")


class Link(Senders):
    """Weights of the rig's model in `senders` processes of their own, sent over `transport`; `how` the receivers bring
    them in: `graph`, `foreach` or `copies` replay a plan, `loader` is the engine's own, `auto` the fastest that does
    what the loader does. Several senders share the rows of each tensor. `colocated`: they are on the engine's GPUs,
    else on those behind them; `on_host`: they hold the weights in host memory. `bucket`: MiB sent at once, where a
    transport does not offer the whole buffer. `merged_rank`: of an adapter that the sender trains and merges into its
    weights (0: none). `straight`: requests go past the engine's front, where they can. `patience`: seconds that a
    broadcast waits for the other side.

    Raises BadOffer where what is offered does not fit: the engine goes on. Whatever else goes wrong, in a sender or in
    the engine, ends all of them (LaunchFailed): the engine never serves weights of which nobody knows what they are."""

    module = "holder"  # of harness.worker, that the senders run

    def __init__(
        self, rig: "Rig", transport: str, how: str, senders: int = 1, colocated: bool = True, on_host: bool = False,
        bucket: int = 64, merged_rank: int = 0, straight: bool = True, patience: float = 60.0,
    ) -> None:  # fmt: skip
        super().__init__(rig)
        self.transport, self.how, self.merged_rank = transport, how, merged_rank
        self.way = transports.load(transport)
        self.together = bool(self.way.TOGETHER)
        self.ranks, self.bucket, self.patience = rig.options.tensor_parallel, bucket << 20, patience
        self.facts |= {"transport": transport, "how": how, "senders": senders, "colocated": colocated}
        self.facts["straight"] = rig.worker.call("straight", rig.timeout, wanted=straight).value
        try:
            self.start(self.module, senders, 0 if colocated else self.ranks)
            self._hold(on_host=on_host, merged_rank=merged_rank)
            self._open()
        except BaseException:
            self.close()
            raise

    def _hold(self, **more: Any) -> None:
        """Give the senders weights that are not the engine's."""
        held = self.hold(**more)
        self.slots, self.dtype, self.bytes = held[0]["slots"], held[0]["dtype"], int(held[0]["bytes"])
        fit(self.rig.model, held)
        self.facts |= {"bytes": self.bytes, "sender_bytes": [one["buffer"] for one in held]}
        self.facts |= {"base_bytes": held[0]["base"]} if self.merged_rank else {}
        self.update(0)

    def _open(self) -> None:
        """Join them: the receivers plan from what the senders offer."""
        self.addresses = self._offered()
        if not self.together:
            self.all("send", transport=self.transport)
        opened = self.ask(
            do="open", transport=self.transport, addresses=self.addresses, slots=self.slots, dtype=self.dtype
        )  # fmt: skip
        self.facts |= {"plan": opened, "path": self.transport}
        self._measure_floors()
        if self.how == "auto":
            self.choose()

    def choose(self) -> None:
        """Replay from now on, if that gives the hashes that the engine's loader gives here; else the loader."""
        found, fast = [], FASTEST[self.rig.environment.device]
        self.how = "loader"
        if self.hashable() and all(plan.get("copies") for plan in self.facts["plan"]):
            for how in ("loader", fast):
                self.ask(do="scramble", value=0.5)
                self.take(how=how)
                found.append(self.ask(do="hashes"))
            self.how = fast if found[0] == found[1] else "loader"
        self.facts |= {"how": self.how}

    def hashable(self) -> bool:
        """Whether hashes see all that is sent, not the few parameters that an engine leaves visible."""
        return bool(sum(self.ask(do="bytes")) >= self.bytes)

    def _offered(self) -> list[dict[str, Any]]:
        """The senders' addresses. What is sent lies on a disk where that is the way, else in shared memory."""
        parent = self.rig.log.parent if getattr(self.way, "ON_DISK", False) else self.rig.worker.folder
        folder = self.enter_context(tempfile.TemporaryDirectory(prefix="weights-", dir=parent))
        offer = {"model": models.find(self.rig.model).path, "receivers": self.ranks, "bucket": self.bucket}
        offer |= {"patience": self.patience}
        return [reply.value for reply in self.all("offer", transport=self.transport, folder=folder, **offer)]

    def _measure_floors(self, place: str = "") -> None:
        """What no sync goes below. `place`: where all weights lie, when no plan knows."""
        floors = self.ask(do="floor", size=self.bytes // self.ranks, place=place)
        self.floor = max(floor["device"] for floor in floors)
        self.path_floor = max(floor.get("path", 0.0) for floor in floors)
        self.facts |= {"floor_s": self.floor, "path_floor_s": self.path_floor}

    def update(self, step: int | None) -> dict[str, float]:
        """The senders' weights become those of another step; None: the base, where an adapter is merged. The seconds of
        a merge."""
        merged = [reply.value for reply in self.all("update", step=step)]
        return {"sync_merge": max(merged)} if self.merged_rank else {}

    def send(self) -> float:
        """Have the weights sent where the engine need not take part; seconds on the slowest sender's clock."""
        if self.together:
            return 0.0
        return max(reply.seconds for reply in self.all("send", transport=self.transport))

    def take(self, **options: Any) -> Reply:
        """Have the engine take in what was sent, or what is sent while it does; `options` are of
        `harness.worker.receive.Receiver.do_sync` and `flush`, which empties the prefix cache."""
        flush = options.pop("flush", False)
        return self._taken("weights", request={"do": "sync", "how": self.how} | options, flush=flush)

    def _taken(self, call: str, **args: Any) -> Reply:
        """A call of the engine that takes weights, with the senders at it where both must be at the same time."""
        for sender in self.senders if self.together else ():
            sender.post("send", self.everyone, transport=self.transport)
        reply = self.rig.worker.call(call, self.rig.timeout, watch=self.senders, **args)
        sent = [answer.seconds for answer in self.answers("send")] if self.together else []
        return Reply(reply.value, max([reply.seconds, *sent]))

    def sync(self) -> dict[str, float]:
        """Bring the senders' weights into the engine and empty its prefix cache, as fast as it goes: seconds of it all,
        and of the engine's model processes."""
        sent, reply = self.send(), self.take(flush=True)
        return self.figures(sent + reply.seconds) | {"sync_worker": max(answer["worker"] for answer in reply.value)}

    def figures(self, seconds: float) -> dict[str, float]:
        return super().figures(seconds) | ({"sync_path_ratio": seconds / self.path_floor} if self.path_floor else {})

    def apart(self) -> dict[str, float]:
        """The same once more with a fence behind each part: seconds of each, of the slowest process."""
        sent = self.send()
        reply = self.take(apart=True)
        phases = {f"sync_{name}": max(answer[name] for answer in reply.value) for name in reply.value[0]}
        worker = phases.pop("sync_worker")
        emptied = self.ask(do="flush")
        flush = self.rig.flush() if None in emptied else max(emptied)
        phases |= {"sync_control": reply.seconds - worker, "sync_flush": flush}
        return phases | ({} if self.together else {"sync_pack": sent})

    def reference(self, step: int) -> None:
        """Bring in the weights that are there another way: by the engine's loader from the same tensors, or where that
        is what is measured from a checkpoint of their step that was made apart."""
        if self.how == "loader":
            self.read_checkpoint(step)
        else:
            self.take(how="loader")

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

    def learned(self) -> None:
        """Note what the receivers know now, the time that capturing took among it."""
        self.facts["plan"] = [old | new for old, new in zip(self.facts["plan"], self.ask(do="facts"), strict=True)]

    def sent(self) -> list[int]:
        """A hash of what each sender holds."""
        return [reply.value for reply in self.all("sent")]

    def let_go(self) -> None:
        self.ask(do="close")

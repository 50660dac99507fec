"""Processes that send to the rig's engine what a trainer would, in the engine's environment."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from harness import models
from harness.client import Reply, Worker

if TYPE_CHECKING:
    from harness.rig import Rig

NAMES = {"holder": "sender of weights", "adapter": "sender of adapters", "training": "trainer"}  # by module


class Senders(ExitStack):
    """`senders`, workers of a module of `harness.worker`, on `devices`; what they send takes `bytes`, and no sync of it
    goes below `floor` seconds. `facts` go into the record."""

    bytes: int
    floor: float

    def __init__(self, rig: "Rig") -> None:
        super().__init__()
        self.rig = rig
        self.senders, self.devices = list[Worker](), list[str]()
        self.facts: dict[str, Any] = {}

    def start(self, module: str, count: int = 1, first: int = 0) -> None:
        """Start `count` of them, on the GPUs from the number `first` on."""
        rig, env = self.rig, self.rig.environment
        for number in range(count):
            log = rig.log.with_suffix(f".{module}{number}.log")
            name, variables = f"{NAMES[module]} for {env.engine}", rig.variables(local=True)
            sender = Worker(name, env.python, log, variables, env.paths, f"harness.worker.{module}")
            self.senders.append(self.enter_context(sender))
            self.devices.append(env.device if env.device == "cpu" else f"cuda:{first + number}")

    def hold(self, **more: Any) -> list[dict[str, Any]]:
        """Have holders share the weights of the rig's model (`harness.worker.holder.Holder.hold`); what they say."""
        tensors = [[name, list(size)] for name, size in models.tensors_of(self.rig.model)]
        shared = {"tensors": tensors, "dtype": self.rig.options.dtype, "ranks": len(self.senders)} | more
        for rank, (sender, device) in enumerate(zip(self.senders, self.devices, strict=True)):
            sender.post("hold", self.everyone, rank=rank, device=device, **shared)
        return [reply.value for reply in self.answers("hold")]

    def all(self, name: str, **args: Any) -> list[Reply]:
        """Ask all of them at once."""
        for sender in self.senders:
            sender.post(name, self.everyone, **args)
        return self.answers(name)

    @property
    def everyone(self) -> list[Worker]:
        """What ends together: the senders, and the engine once it runs."""
        return [*self.senders, *self.rig.running]

    def answers(self, name: str) -> list[Reply]:
        """Theirs to what was posted last; one of them that fails, or the engine, ends them all."""
        return [sender.answer(name, self.rig.timeout, self.everyone) for sender in self.senders]

    def ask(self, **request: Any) -> Any:
        """The answers of the processes that hold a part of the model, by rank."""
        return self.rig.worker.call("weights", self.rig.timeout, request=request, flush=False).value

    def figures(self, seconds: float) -> dict[str, float]:
        """Of a sync that took so long."""
        return {
            "sync_latency": seconds,
            "sync_bandwidth": self.bytes / seconds / 1e9,
            "sync_floor_ratio": seconds / self.floor,
        }

    def end(self) -> list[str]:
        """Have the engine let go of what was opened and the senders end; names of their processes that had to be
        killed."""
        if any(sender.ended for sender in self.senders):
            return []
        self.let_go()
        return [name for sender in self.senders for name in sender.close()]

    def let_go(self) -> None:
        """The engine's side of the end."""

"""A sender of weights and an engine that takes them in by calls of its own: what rollbench's transports are held
against."""

from typing import Any

from harness.client import Reply
from harness.link import Link


class OwnLink(Link):
    """A link over one of `transports.OWN_WAYS`. `how` weights come in is the engine's own matter, and `bucket` what
    frameworks give it, where it takes buckets."""

    payload: Any = None
    phases: dict[str, float]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"straight": False})

    def _open(self) -> None:
        """Join them."""
        self.bucket = getattr(self.way, "BUCKET", self.bucket)
        (self.address,) = self._offered()
        joined = self._taken_part("join").value
        self.facts |= {"how": "own", "joined": joined, "path": self.transport}
        self.facts |= {"bucket": self.bucket} if hasattr(self.way, "BUCKET") else {}
        self._measure_floors(place="" if getattr(self.way, "ON_DISK", False) else self.devices[0])

    def _taken_part(self, call: str) -> Reply:
        return self.rig.worker.call(
            call, self.rig.timeout, self.senders, transport=self.transport, address=self.address
        )

    def send(self) -> float:
        if self.together:
            return 0.0
        (reply,) = self.all("send", transport=self.transport)
        self.payload = reply.value
        return reply.seconds

    def take(self, **options: Any) -> Reply:
        """Have the engine take in what was sent last, once, and empty its prefix cache; its seconds end when the device
        is done."""
        if options:
            raise ValueError(f"{self.transport} has no options, got {', '.join(options)}")
        return self._taken("take", transport=self.transport, address=self.address, payload=self.payload)

    def sync(self) -> dict[str, float]:
        """Bring the sender's weights into the engine and empty its prefix cache: seconds of it all."""
        sent, reply = self.send(), self.take()
        control = reply.seconds - sum(reply.value.values())
        self.phases = {f"sync_{name}": seconds for name, seconds in reply.value.items()} | {"sync_control": control}
        self.phases |= {} if self.together else {"sync_pack": sent}
        return self.figures(sent + reply.seconds)

    def apart(self) -> dict[str, float]:
        """The parts of the last sync, by the engine's own calls; nothing is fenced between them."""
        return self.phases

    def reference(self, step: int) -> None:
        self.read_checkpoint(step)

    def learned(self) -> None:
        """There is no plan that could have learned."""

    def let_go(self) -> None:
        self._taken_part("leave")

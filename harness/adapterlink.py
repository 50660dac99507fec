"""A sender of LoRA adapters and the engine that takes them in."""

from typing import TYPE_CHECKING

from harness import models
from harness.link import Link
from harness.senders import Senders

if TYPE_CHECKING:
    from harness.rig import Rig

WHOLE = {"cpu": "shm", "cuda": "ipc"}  # by device: how whole weights come


class AdapterLink(Senders):
    """Adapters of the rank that the engine has room for, in PEFT's format through shared memory. They change a base
    that the engine is given first."""

    def __init__(self, rig: "Rig") -> None:
        super().__init__(rig)
        self.rank = rig.options.lora_rank
        rig.worker  # noqa: B018, the engine takes its memory first
        try:
            self.start("adapter")
            self._hold()
            self.whole(None)
        except BaseException:
            self.close()
            raise

    def _hold(self) -> None:
        tensors = [[name, list(size)] for name, size in models.tensors_of(self.rig.model)]
        held = self.senders[0].call(
            "hold", self.rig.timeout, tensors=tensors, rank=self.rank, dtype=self.rig.options.dtype,
            device=self.devices[0],
        ).value  # fmt: skip
        ranks = self.rig.options.tensor_parallel
        self.bytes, self.folder = int(held["bytes"]), str(self.rig.worker.folder / "adapter")
        self.floor = max(floor["device"] for floor in self.ask(do="floor", size=self.bytes // ranks))
        self.facts |= {"rank": self.rank, **held, "floor_s": self.floor}

    def whole(self, step: int | None) -> None:
        """Bring in whole weights by the engine's own loader: the base, or what a step's adapter makes of it, merged."""
        with Link(self.rig, WHOLE[self.rig.environment.device], "loader", merged_rank=self.rank) as link:
            link.update(step)
            link.sync()
            link.end()

    def update(self, step: int | None) -> None:
        """The sender's adapter becomes that of another step; None: one that changes nothing."""
        self.all("update", step=step)

    def sync(self) -> dict[str, float]:
        """Have the adapter written, and taken in by the engine, whose prefix cache is empty then."""
        (wrote,) = self.all("write", folder=self.folder)
        adapted = self.rig.worker.call("adapt", self.rig.timeout, path=self.folder)
        return self.figures(wrote.seconds + adapted.seconds) | {
            "sync_pack": wrote.seconds,
            "sync_load": adapted.seconds,
        }

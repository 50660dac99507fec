"""Taking weights in, inside a process of an engine that holds a part of the model."""

import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.worker import offers, transports
from harness.worker.flat import Piece, Slot
from harness.worker.offers import Unfit
from harness.worker.source import Source

Request = dict[str, Any]
FLOOR_COPIES = 20
FLOOR_BYTES = 1 << 30  # of the scratch buffers that measure a path; longer copies are no faster


def answers(replies: Sequence[Request]) -> list[Any]:
    """What the receivers returned, by rank. Raises Unfit where all found that what is offered does not fit,
    RuntimeError where anything else went wrong in one: what the engine then holds, nobody knows."""
    wrong = {rank: reply["error"] for rank, reply in enumerate(replies) if "error" in reply}
    if wrong and all(reply.get("sound") for reply in replies):
        raise Unfit(wrong[0])
    for rank, error in wrong.items():
        raise RuntimeError(f"rank {rank}: {error}" if len(replies) > 1 else error)
    return [reply["value"] for reply in replies]


class Receiver:
    """What one process needs to take weights in, kept from one sync to the next.

    `model()` is its part of the model; `load` gives named tensors to the engine's own loader; `read` has it read a
    checkpoint; `flush` empties the prefix cache and `listen` opens a shortcut (`harness.worker.shortcut`) at a path,
    where this process can, else they are None. `packs`: why no copies can be recorded from the loader, where that is
    so. `place` brings the loaded adapter of a name to the device, where the engine waits with that.
    """

    def __init__(
        self,
        model: Callable[[], Any],
        load: Callable[[Iterable[Any]], Any],
        read: Callable[[str], Any],
        flush: Callable[[], None] | None = None,
        rank: int = 0,
    ) -> None:
        self.model, self.load, self.read, self.flush, self.rank = model, load, read, flush, rank
        self.packs = ""
        self.place: Callable[[str], Any] = lambda name: None
        self.listen: Callable[[str], None] | None = None
        self.addresses: list[Request] = []
        self.offered: tuple[list[Slot], str] = [], ""  # the tensors, and their dtype
        self.plan: Any = None
        self.source: Source | None = None

    def answer(self, request: Request) -> Request:
        """Do what a request names; a reply for `answers`. It raises nothing, since engines lose errors: SGLang those of
        ranks but the first, vLLM their kinds."""
        arguments = {name: value for name, value in request.items() if name != "do"}
        try:
            return {"value": getattr(self, f"do_{request['do']}")(**arguments)}
        except Unfit as error:
            return {"error": str(error), "sound": True}
        except Exception as error:
            traceback.print_exc()
            return {"error": str(error) if type(error) is RuntimeError else f"{type(error).__name__}: {error}"}

    def do_listen(self, path: str) -> bool:
        """Open a shortcut at a path, where this process can; whether it can."""
        if self.listen is None:
            return False
        self.listen(path)
        return True

    def do_open(self, transport: str, addresses: list[Request], slots: list[list[Any]], dtype: str) -> dict[str, Any]:
        """Open what the senders offer and, where that is memory, plan how their tensors go into the model; facts.
        Raises Unfit where that cannot be: nothing is written here."""
        found = [Slot(name, tuple(shape), offset, size) for name, shape, offset, size in slots]
        self.do_close()
        self.addresses, self.offered = addresses, (found, dtype)
        try:
            return self._open(transport)
        except Exception as error:
            self.do_close()
            if isinstance(error, Unfit):
                raise
            traceback.print_exc()
            raise Unfit(f"{transport} could not be opened: {type(error).__name__}: {error}") from error

    def _open(self, transport: str) -> dict[str, Any]:
        import torch

        from harness.worker.plan import Plan

        start, (slots, name) = time.perf_counter(), self.offered
        dtype, parameters = getattr(torch, name), self.model().parameters()
        offers.fit(slots, dtype.itemsize, name, {str(each.dtype).removeprefix("torch.") for each in parameters})
        self.source = transports.load(transport).opened(self.addresses, self.device, self.rank)
        if self.source is None:
            return {"open_s": time.perf_counter() - start}
        facts: dict[str, Any] = {"open_s": time.perf_counter() - start, "staging_bytes": self.source.own}
        if self.plan is None or (self.plan.slots, self.plan.dtype) != (slots, dtype):
            self.plan = Plan.record(self.model(), self.load, slots, dtype, self.packs)
        self.plan.bind(self.source.segments([[Piece(*piece) for piece in a["pieces"]] for a in self.addresses]))
        self.fence()
        return facts | self.source.facts | dict(self.plan.facts)

    def do_close(self) -> None:
        """Let go of what was opened; the plan stays for the next."""
        if self.plan is not None:
            self.plan.stages = []
        if self.source is not None:
            self.fence()
            self.source.close()
            self.source = None

    def do_sync(self, how: str, apart: bool = False, flush: bool = False) -> dict[str, float]:
        """Bring the senders' weights in; seconds of it all, fenced on the device. `apart`: seconds of each part too,
        fenced one by one. `flush`: empty the prefix cache while the device copies."""
        self.fence()
        start, phases = time.perf_counter(), dict[str, float]()
        if self.source is None:
            offers.checkpoint(Path(self.addresses[0]["path"]), *self.offered)
            self.read(self.addresses[0]["path"])
            if apart:
                phases = self._fenced(start)
        elif apart:
            phases = self._apart(self.source, how)
        else:
            self._bring(self.source, how)
        self._empty(flush)
        self.fence()
        return {"worker": time.perf_counter() - start, **phases}

    def _bring(self, source: Source, how: str) -> None:
        """Stage by stage, the next one fetched while one is copied; all at once where the loader has to do it all."""
        if how == "loader" or not self.plan.moves.moves:
            self.load(self._given(source))
            return
        begun = source.fetch(0)
        for stage in range(len(source.stages)):
            source.wait(begun)
            if stage + 1 < len(source.stages):
                begun = source.fetch(stage + 1)
            self.plan.replay(how, stage)

    def _given(self, source: Source) -> Iterable[Any]:
        """Tensors for the engine's loader, in one call over all stages."""
        for at in range(len(source.stages)):
            source.wait(source.fetch(at))
            yield from self.plan.named(at)

    def _apart(self, source: Source, how: str) -> dict[str, float]:
        """Seconds of the transfers and of the loads, nothing at the same time, unless a loader fetches by itself."""
        start = time.perf_counter()
        if len(source.stages) > 1 and (how == "loader" or not self.plan.moves.moves):
            self._bring(source, how)
            return self._fenced(start)
        transfer = load = 0.0
        for stage in range(len(source.stages)):
            start = time.perf_counter()
            source.wait(source.fetch(stage))
            self.fence()
            middle = time.perf_counter()
            self.plan.replay(how, stage)
            self.fence()
            transfer, load = transfer + middle - start, load + time.perf_counter() - middle
        return {"transfer": transfer, "load": load} if source.facts else {"load": load}

    def _fenced(self, start: float) -> dict[str, float]:
        self.fence()
        return {"load": time.perf_counter() - start}

    def do_fence(self) -> float:
        """Wait for the device; seconds that it took."""
        start = time.perf_counter()
        self.fence()
        return time.perf_counter() - start

    def do_read(self, path: str) -> None:
        """Have the engine read a checkpoint."""
        self.read(path)
        self.fence()

    def do_adapted(self, name: str, flush: bool = False) -> None:
        """The loaded adapter of that name is on the device when this returns; `flush`: the prefix cache is empty."""
        self.place(name)
        self._empty(flush)
        self.fence()

    def do_flush(self) -> float | None:
        """Empty the prefix cache, as a sync does; seconds, None where this process cannot."""
        start = time.perf_counter()
        self._empty(self.flush is not None)
        return None if self.flush is None else time.perf_counter() - start

    def _empty(self, wanted: bool) -> None:
        """The prefix cache, where that is wanted."""
        if wanted and self.flush is None:
            raise RuntimeError("this process cannot empty the prefix cache")
        if wanted and self.flush is not None:
            self.flush()

    def do_memory(self) -> dict[str, float]:
        """GiB by torch's counters of this process; empty on a CPU, which has none."""
        import torch

        if self.device.type != "cuda":
            return {}
        names = "memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"
        return {f"torch_{name}": getattr(torch.cuda, name)() / (1 << 30) for name in names}

    def do_facts(self) -> dict[str, Any]:
        """What the plan has learned since it was recorded."""
        return dict(self.plan.facts) if self.plan is not None else {}

    def do_hashes(self) -> dict[str, int]:
        """Of each parameter a position-weighted hash; parameters whose memory the engine has hidden are missing."""
        from harness.worker.hashes import hashes

        return hashes(self.model())

    def do_bytes(self) -> int:
        """Bytes of all parameters that a hash covers."""
        from harness.worker.hashes import distinct

        return sum(parameter.nbytes for parameter in distinct(self.model()).values())

    def do_sent(self) -> list[int] | None:
        """A hash of each sender's buffer as this process sees it; None where it does not see them whole."""
        from harness.worker.hashes import hashed

        if self.source is None or self.source.facts:
            return None
        return [hashed(part.tensor) for part in self.source.stages[0]]

    def do_scramble(self, value: float) -> None:
        """Make every parameter wrong, so that what is right afterwards was loaded."""
        import torch

        from harness.worker.hashes import distinct

        with torch.no_grad():
            for parameter in distinct(self.model()).values():
                parameter.fill_(value)
        self.fence()

    def do_swap(self) -> None:
        """Make two copies of the plan take each other's source: a proof must notice."""
        self.plan.swap()

    def do_floor(self, size: int, place: str = "") -> dict[str, float]:
        """What no sync goes below, in seconds: `device`, a plain copy of `size` bytes on the model's device; `path`,
        copies of what this process takes, from where it lies (this GPU, another, the host): all in `place` where that
        is given, else as the plan knows."""
        rate = self._rate(self.device, size)
        found = {"device": size / rate}
        pairs = [pair for stage in self.plan.stages for pair in stage.pairs] if self.plan is not None else []
        taken: dict[str, int] = {place: size} if place else {}
        for pair in pairs:
            taken[str(pair.out_of.device)] = taken.get(str(pair.out_of.device), 0) + pair.into.nbytes
        if taken:
            found["path"] = sum(
                count / (rate if place == str(self.device) else self._rate(place, count))
                for place, count in taken.items()
            )
        return found

    def _rate(self, place: Any, size: int) -> float:
        """Bytes a second of one plain copy from a place to the model's device, the median of some."""
        import torch

        half = min(size // 2, FLOOR_BYTES)  # a second buffer of the whole size may not fit beside the model
        into = torch.zeros(half, dtype=torch.uint8, device=self.device)
        locked = str(place) == "cpu" and self.device.type == "cuda"
        out_of = torch.zeros(half, dtype=torch.uint8, device=place, pin_memory=locked)
        times = []
        for _ in range(FLOOR_COPIES + 3):
            self.fence()
            start = time.perf_counter()
            for _ in range(2):
                into.copy_(out_of, non_blocking=True)
            self.fence()
            times.append(time.perf_counter() - start)
        del into, out_of
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return 2 * half / statistics.median(times[3:])

    @property
    def device(self) -> Any:
        return next(iter(self.model().parameters())).device

    def fence(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()

"""Taking weights in, inside the process of an engine that holds the model.

vLLM: `Extension` becomes part of its worker, called by `collective_rpc`. SGLang: `sglang_install`, as a custom weight
loader, gives its scheduler one more call. Requests and replies are what JSON can hold.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness.worker import transports
from harness.worker.flat import Slot

Request = dict[str, Any]
FLOOR_COPIES = 20


class Receiver:
    """What one model process needs to take weights in, kept from one sync to the next.

    `model()` is the model; `load` gives named tensors to the engine's own loader; `read` has it read a checkpoint;
    `place` brings the adapter of a name that is loaded to the device, where the engine does not do so at once.
    """

    def __init__(
        self,
        model: Callable[[], Any],
        load: Callable[[Iterable[Any]], Any],
        read: Callable[[str], Any],
        place: Callable[[str], Any] = lambda name: None,
    ) -> None:
        self.model, self.load, self.read, self.place = model, load, read, place
        self.address: Request = {}
        self.plan: Any = None
        self.transport: Any = None
        self.buffer: Any = None

    def answer(self, request: Request) -> Any:
        """Do what a request names. Raises ValueError for a name that is none."""
        call = getattr(self, f"do_{request['do']}", None)
        if call is None:
            raise ValueError(f"no such request: {request['do']}")
        return call(**{name: value for name, value in request.items() if name != "do"})

    def do_open(self, transport: str, address: Request, slots: list[list[Any]], dtype: str) -> dict[str, Any]:
        """Open what the sender offers and, where it is a buffer, record how its tensors go into the model; facts."""
        import torch

        from harness.worker.plan import Plan

        self.do_close()
        start = time.perf_counter()
        self.transport, self.address = transports.load(transport), address
        buffer = self.buffer = self.transport.opened(address, self.device)
        facts: dict[str, Any] = {"open_s": time.perf_counter() - start}
        if buffer is None:
            return facts
        found = [Slot(name, tuple(shape), offset, size) for name, shape, offset, size in slots]
        self.plan = Plan.record(self.model(), self.load, buffer, found, getattr(torch, dtype))
        self.fence()
        facts |= self.plan.facts
        return facts

    def do_close(self) -> None:
        """Let go of what was opened."""
        self.plan = None
        if self.buffer is not None:
            self.fence()
            self.transport.closed(self.buffer)
            self.buffer = None

    def do_sync(self, how: str) -> dict[str, float]:
        """Bring the sender's weights in; seconds of the load, fenced on the device."""
        self.fence()
        start = time.perf_counter()
        if self.plan is None:
            self.read(self.address["path"])
        else:
            self.plan.replay(how)
        self.fence()
        return {"load": time.perf_counter() - start}

    def do_read(self, path: str) -> None:
        """Have the engine read a checkpoint."""
        self.read(path)
        self.fence()

    def do_adapted(self, name: str) -> None:
        """The adapter of that name is on the device when this returns."""
        self.place(name)
        self.fence()

    def do_memory(self) -> dict[str, float]:
        """GiB by torch's counters of this process; empty on a CPU, which has none."""
        import torch

        if self.device.type != "cuda":
            return {}
        names = "memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"
        return {f"torch_{name}": getattr(torch.cuda, name)() / (1 << 30) for name in names}

    def do_hashes(self) -> dict[str, int]:
        """Of each parameter a position-weighted hash; parameters whose memory the engine has hidden are missing."""
        from harness.worker.plan import hashes

        return hashes(self.model())

    def do_bytes(self) -> int:
        """Bytes of all parameters that a hash covers."""
        from harness.worker.plan import distinct

        return sum(parameter.nbytes for parameter in distinct(self.model()).values())

    def do_sent(self) -> int | None:
        """A hash of the buffer as this process sees it; None where there is none."""
        from harness.worker.plan import hashed

        return None if self.buffer is None else hashed(self.buffer)

    def do_scramble(self, value: float) -> None:
        """Make every parameter wrong, so that what is right afterwards was loaded."""
        import torch

        from harness.worker.plan import distinct

        with torch.no_grad():
            for parameter in distinct(self.model()).values():
                parameter.fill_(value)
        self.fence()

    def do_swap(self) -> None:
        """Make two copies of the plan take each other's source: a proof must notice."""
        self.plan.swap()

    def do_floor(self, size: int) -> float:
        """Seconds of one plain copy of so many bytes on the model's device, the median of some: no sync is faster."""
        import torch

        half = size // 2  # a second buffer of the whole size may not fit beside the model
        a, b = (torch.zeros(half, dtype=torch.uint8, device=self.device) for _ in range(2))
        times = []
        for _ in range(FLOOR_COPIES + 3):
            self.fence()
            start = time.perf_counter()
            for _ in range(2):
                a.copy_(b, non_blocking=True)
            self.fence()
            times.append(time.perf_counter() - start)
        del a, b
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return statistics.median(times[3:])

    @property
    def device(self) -> Any:
        return next(iter(self.model().parameters())).device

    def fence(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Extension:
    """Becomes a base of vLLM's worker class."""

    model_runner: Any
    reload_weights: Any

    def rollbench(self, request: Request) -> Any:
        if not hasattr(self, "_rollbench"):
            self._rollbench = Receiver(lambda: self.model_runner.model, self._load, self._read)
        return self._rollbench.answer(request)

    def rollbench_attention(self) -> dict[str, Any]:
        """The attention backends that the engine chose, and FlashAttention's version."""
        found: dict[str, Any] = {"attention_backend": sorted(
            {group.backend.get_name() for groups in self.model_runner.attn_groups for group in groups}
        )}  # fmt: skip
        if "FLASH_ATTN" in found["attention_backend"]:
            from vllm.v1.attention.backends.fa_utils import get_flash_attn_version

            found["flash_attn_version"] = get_flash_attn_version()
        return found

    def _load(self, named: Iterable[Any]) -> None:
        """On a CPU vLLM packs its matrices after loading, and only its reloading knows the way back."""
        if self._rollbench.device.type == "cpu":
            self.reload_weights(weights_iterator=iter(list(named)))
        else:
            self.model_runner.model.load_weights(named)

    def _read(self, path: str) -> None:
        self.reload_weights(weights_path=path)


def sglang_install(model: Any, named_tensors: Any) -> None:
    """Give SGLang's scheduler, in whose process this runs, the call `rollbench(request, flush, reply)`.

    `reply` is a path for what it returns, since such calls return nothing. With `flush` the prefix cache is emptied by
    the same call, which spares a round trip.
    """
    from sglang.srt.managers.scheduler import Scheduler

    def rollbench(self: Any, request: Request, flush: bool, reply: str) -> None:
        if not hasattr(self, "_rollbench"):
            runner = self.tp_worker.model_runner
            self._rollbench = Receiver(
                lambda: runner.model,
                runner.model.load_weights,
                lambda path: _read(runner, path),
                lambda name: _place(runner.lora_manager, name),
            )
        value = self._rollbench.answer(request)
        if flush and self.flush_cache() is False:
            raise RuntimeError("SGLang did not flush its cache: requests are still running")
        scratch = Path(f"{reply}.{os.getpid()}")
        scratch.write_text(json.dumps(value))
        scratch.replace(reply)

    Scheduler.rollbench = rollbench


def _place(manager: Any, name: str) -> None:
    """Into SGLang's pool of adapters on the device, as the first batch with that adapter would."""
    manager.fetch_new_loras({number for number, adapter in manager.lora_refs.items() if adapter.lora_name == name})


def _read(runner: Any, path: str) -> None:
    """SGLang's update from disk, in its own process."""
    from safetensors import safe_open

    def named() -> Iterable[Any]:
        with safe_open(Path(path, "model.safetensors"), "pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no dictionary
                yield name, file.get_tensor(name)

    runner.model.load_weights(named())

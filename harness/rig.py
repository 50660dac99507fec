"""The rig: what a scenario holds while it is measured. It owns the launch's processes and audits every call."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import machine, models
from harness.adapterlink import AdapterLink
from harness.audit import Audit
from harness.client import Worker
from harness.crew import AdapterCrew, Crew, Lesson
from harness.envs import Environment
from harness.errors import LaunchFailed
from harness.link import Link
from harness.ownlink import OwnLink
from harness.record import Certificate
from harness.rollouts import Requests, Rollouts
from harness.sampler import Sampler
from harness.scenario import Options
from harness.senders import Senders
from harness.series import Series
from harness.worker.transports import OWN_WAYS

GIB = 1 << 30
MIB_A_GIB = 1024
LEFT_OVER_MIB = 512  # device memory above the baseline that a closed launch may leave to the driver
CLOSE_TIMEOUT = 60.0
SETTLE = 10.0  # seconds for the driver to give the memory of ended processes back
PAUSE, SETTLE_ASLEEP = 0.05, 2.0  # seconds between two readings of device memory that must agree, and until they must


class Rig(ExitStack):
    """One launch of one engine. The worker starts at the first use; leaving the context ends it, whatever happened.
    The first `gpus` that the engine is shown are looked at (0: all).

    Calls raise LaunchFailed when the engine dies, refuses or takes longer than `timeout` seconds.
    """

    def __init__(
        self,
        environment: Environment,
        model: str,
        options: Options,
        log: Path,
        timeout: float,
        tell: Callable[[str], None],
        gpus: int = 0,
    ) -> None:
        super().__init__()
        self.environment, self.model, self.options = environment, model, options
        self.log, self.timeout, self.tell = log, timeout, tell
        self.audit = Audit(options.prefix_caching)
        self.facts: dict[str, Any] = {}
        self.flags: dict[str, Any] = {}
        self.versions: dict[str, str] = {}
        self.start_on: Path | None = None  # a checkpoint in place of the model's weights
        self.fresh: Rollouts | None = None  # what an engine started on it answers (`harness.fresh`)
        self._worker: Worker | None = None
        self._link: Any = None  # a Link or an AdapterLink
        self.slept = 0  # times that the engine was sent to sleep
        self.gpus = gpus
        self.baseline_mib = machine.device_memory_mib()[: gpus or None]  # in use on each GPU before the launch
        self.began = time.monotonic()

    @property
    def loaded(self) -> models.Model:
        return models.find(self.model)

    @property
    def worker(self) -> Worker:
        if self._worker is None:
            self._start()
        assert self._worker is not None
        return self._worker

    @property
    def running(self) -> list[Worker]:
        """The engine, once it was started."""
        return [self._worker] if self._worker else []

    def _start(self) -> None:
        model, env = self.loaded, self.environment
        self.tell(f"waiting for {env.engine} to start")
        worker = self._worker = Worker(env.engine, env.python, self.log, self.variables(model.local), env.paths)
        self.facts["model"] = Path(model.path).name
        at, form = (str(self.start_on), "auto") if self.start_on else (model.path, model.load_format)
        self.callback(self._end)
        series = self.log.with_suffix(".series.jsonl")
        gpus = len(machine.gpu_names()[: self.gpus or None])
        self._sampler = self.enter_context(Sampler(series, worker.pid, gpus=gpus))
        reply = worker.call(
            "start", self.timeout, model=at, load_format=form,
            options=self.options.of(env.engine), device=env.device,
        )  # fmt: skip
        worker.look()
        self.flags, self.versions = reply.value["flags"], reply.value["versions"]
        if env.shims:
            self.versions["shims"] = env.shims
        self.startup = time.monotonic() - worker.started

    def variables(self, local: bool) -> dict[str, str]:
        """Environment variables of the launch: nothing asks the network for a model that is here, nothing listens to
        other machines, and CPU threads are counted."""
        found = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false"}
        if local:
            found |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self.environment.device == "cpu":
            found |= {"OMP_NUM_THREADS": str(self.options.threads), "OMP_WAIT_POLICY": "passive"}
        return found

    @property
    def vocabulary(self) -> int:
        self.worker  # noqa: B018, starts it
        return int(self.flags["vocab_size"])

    def begin(self, log: Path) -> None:
        """A case begins: with an empty prefix cache, an audit and facts of its own. Its files lie beside `log`, where a
        link leads to the engine's log."""
        if log != self.worker.log:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.symlink_to(os.path.relpath(self.worker.log, log.parent))
        self.log, self.facts = log, {"model": self.facts["model"]}
        self.flush()
        self.reset_audit()

    def reset_audit(self) -> None:
        """Count from here on: the warm-up is over."""
        self.audit = Audit(self.options.prefix_caching)

    @property
    def age(self) -> float:
        """Seconds since the launch's first process started."""
        return time.monotonic() - self.worker.started

    def generate(
        self, requests: Requests, *, temperature: float, concurrency: int = 0, logprobs: bool = False,
        stream: bool = False, cache_floor: float = 0.0, audited: bool = True,
    ) -> Rollouts:  # fmt: skip
        """Send the requests as they are scheduled, at most `concurrency` conversations at once (0: no limit), and
        generate as many tokens for each as it asks for. `cache_floor` is the least share of what a perfect prefix cache
        would give that the engine's must; the audit holds it against what it gave."""
        self.worker.must_live("generate")
        into, back = self.worker.folder / "requests", self.worker.folder / "rollouts"
        reply = self.worker.call(
            "generate", self.timeout, self._link.senders if self._link is not None else (),
            requests=str(into), layout=requests.save(into), rollouts=str(back),
            concurrency=concurrency, sampling={"temperature": temperature, "logprobs": logprobs, "stream": stream},
        )  # fmt: skip
        out = Rollouts.load(back, reply.value)
        if audited:
            self.audit.add(requests, out, cache_floor)
        return out

    def link(self, transport: str, how: str, **options: Any) -> Link:
        """Senders of this model's weights, joined to the engine; started at the first use, ended with the launch.
        `options` are those of `Link`."""
        kind = OwnLink if transport in OWN_WAYS else Link
        found: Link = self._linked(lambda: kind(self, transport, how, **options))
        return found

    def crew(self, transport: str, how: str, lesson: Lesson, **options: Any) -> Crew:
        """A trainer joined to the engine, in the same way."""
        kind = Crew if lesson.settings.get("merged", True) else AdapterCrew
        found: Crew = self._linked(lambda: kind(self, transport, how, lesson, **options))
        return found

    def adapter_link(self) -> AdapterLink:
        """A sender of LoRA adapters, in the same way."""
        found: AdapterLink = self._linked(lambda: AdapterLink(self))
        return found

    def _linked(self, make: Callable[[], Senders]) -> Any:
        if self._link is None:
            self.tell("waiting for the senders of weights")
            self._link = self.enter_context(make())
            self.facts["link"] = self._link.facts
        return self._link

    def unlink(self) -> None:
        """End the sender where there is one; the engine lets go of what was sent."""
        if self._link is not None:
            self._link.end()
            self._link.close()
            self._link = None

    def flush(self) -> float:
        """Empty the prefix cache; seconds on the worker's clock."""
        return self.worker.call("flush", self.timeout).seconds

    def sleep(self, released: dict[str, str]) -> float:
        """Have the engine give the device memory of these parts back, and what becomes of each (`worker.engines` has
        the words; none pauses it); seconds on the worker's clock."""
        self.slept += 1
        return self.worker.call("sleep", self.timeout, released=released).seconds

    def wake(self, parts: list[str]) -> float:
        """Have it take the memory of these parts again; seconds on the worker's clock."""
        return self.worker.call("wake", self.timeout, parts=parts).seconds

    def device_gib(self, gpus: int) -> float:
        """Memory in use above the baseline on the first GPUs together, whoever holds it, once two readings agree."""
        deadline, before, now = time.monotonic() + SETTLE_ASLEEP, [-1], machine.device_memory_mib()
        while now != before and time.monotonic() < deadline:
            time.sleep(PAUSE)
            before, now = now, machine.device_memory_mib()
        return self.above_baseline(now, gpus)

    def above_baseline(self, used_mib: list[int], gpus: int) -> float:
        """GiB on the first GPUs together."""
        return (sum(used_mib[:gpus]) - sum(self.baseline_mib[:gpus])) / MIB_A_GIB

    def engine_memory(self) -> dict[str, float]:
        """GiB by the engine's own counters, under its own names: never more than a fact beside the device's figure."""
        found: dict[str, float] = self.worker.call("memory", self.timeout).value
        return found

    def series(self, ended: bool = True) -> Series:
        """What the sampler has seen; it ends here where the launch has `ended`."""
        if not ended:
            return replace(Series.load(self._sampler.path), problem="")
        self._sampler.stop()
        return Series.load(self._sampler.path)

    @property
    def series_path(self) -> Path:
        return self._sampler.path

    def shut_down(self, failed: str = "") -> Certificate:
        """End the engine; the certificate says whether processes or device memory stayed behind. Where the launch has
        `failed` all are killed, so that the memory alone is judged."""
        if failed:
            if self._link is not None:
                self._link.close()
            self.worker.end()
            left = self._settled_mib()
            reason = f"{left} MiB of device memory above the baseline behind a launch that was killed: {failed}"
            return Certificate(ok=None if left <= LEFT_OVER_MIB else False, figure=left, reason=reason)
        try:
            killed = self._link.end() if self._link is not None else []
            killed += self.worker.close(CLOSE_TIMEOUT)
        except LaunchFailed as error:  # all was measured: the figures stay, with what is wrong
            return Certificate(ok=False, figure=0, reason=str(error))
        left = self._settled_mib()
        reason = f"{left} MiB of device memory above the baseline; had to kill: {', '.join(killed) or 'nothing'}"
        return Certificate(ok=not killed and left <= LEFT_OVER_MIB, figure=left, reason=reason)

    def _end(self) -> None:
        """End the processes, and let the device get its memory back before another launch reads its baseline."""
        self.worker.end()
        self._settled_mib()

    def _settled_mib(self) -> int:
        """Device memory above the baseline, once it is below LEFT_OVER_MIB or the driver has had its time."""
        deadline = time.monotonic() + SETTLE
        while (left := self._left_mib()) > LEFT_OVER_MIB and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _left_mib(self) -> int:
        return max(
            (now - then for now, then in zip(machine.device_memory_mib(), self.baseline_mib, strict=False)), default=0
        )


def log_path(folder: Path, engine: str, order: int) -> Path:
    return folder / f"{engine}-{order}-{os.getpid()}.log"

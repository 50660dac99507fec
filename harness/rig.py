"""The rig: what a scenario holds while it is measured. It owns the launch's processes and audits every call."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness import machine, models
from harness.client import Worker
from harness.envs import Environment
from harness.errors import LaunchFailed
from harness.record import Certificate
from harness.rollouts import Prompts, Rollouts, lengths, token_hash
from harness.scenario import Options

GIB = 1 << 30
LEFT_OVER_MIB = 512  # device memory above the baseline that a closed launch may leave to the driver
CLOSE_TIMEOUT = 60.0
SETTLE = 10.0  # seconds for the driver to give the memory of ended processes back


@dataclass
class Audit:
    """What was asked and what came, summed over the calls that count."""

    wrong_prompts: int = 0  # requests whose prompt the engine counted otherwise, or batches with other ids
    wrong_outputs: int = 0  # requests that generated another number of tokens than asked
    wrong_cached: int = 0  # tokens from the prefix cache beyond, or short of, those declared
    hashes: list[str] = field(default_factory=list)

    def add(self, prompts: Prompts, out: Rollouts, cached: int | None) -> None:
        sent = token_hash(prompts.ids_BL)
        self.hashes.append(sent[:16])
        self.wrong_prompts += int((out.prompt_B != lengths(prompts.ids_BL)).sum()) + (str(out.prompts_sha256) != sent)
        self.wrong_outputs += int((out.output_B != prompts.output_B).sum())
        if cached is not None:
            self.wrong_cached += abs(int(out.cached_B.sum()) - cached)

    def certificates(self) -> dict[str, Certificate]:
        rows = (
            ("workload", self.wrong_prompts, "prompts that the engine did not get as they were sent"),
            ("counts", self.wrong_outputs, "requests with another number of tokens than asked"),
            ("cache", self.wrong_cached, "prompt tokens from the prefix cache other than declared"),
        )
        return {name: Certificate(ok=not n, figure=n, reason=f"{n} {what}") for name, n, what in rows}


class Rig(ExitStack):
    """One launch of one engine. The worker starts at the first use; leaving the context ends it, whatever happened.

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
    ) -> None:
        super().__init__()
        self.environment, self.model, self.options = environment, model, options
        self.log, self.timeout, self.tell = log, timeout, tell
        self.audit = Audit()
        self.facts: dict[str, Any] = {}
        self.flags: dict[str, Any] = {}
        self.versions: dict[str, str] = {}
        self._worker: Worker | None = None
        self._baseline = machine.device_memory_mib()

    @property
    def worker(self) -> Worker:
        if self._worker is None:
            self._start()
        assert self._worker is not None
        return self._worker

    def _start(self) -> None:
        model = models.find(self.model)
        env = self.environment
        self.tell(f"waiting for {env.engine} to start")
        worker = self._worker = Worker(env.engine, env.python, self.log, self.variables(model.local), env.paths)
        self.facts["model"] = Path(model.path).name
        self.callback(self._end)
        reply = worker.call(
            "start", self.timeout, model=model.path, load_format=model.load_format,
            options=self.options.of(env.engine), device=env.device,
        )  # fmt: skip
        self.flags, self.versions = reply.value["flags"], reply.value["versions"]
        if env.shims:
            self.versions["shims"] = env.shims
        self.startup = time.monotonic() - worker.started

    def variables(self, local: bool) -> dict[str, str]:
        """Environment variables of the launch: nothing asks the network for a model that is here, nothing listens to
        other machines, and CPU threads are counted."""
        found = {"GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false"}
        if local:
            found |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self.environment.device == "cpu":
            found |= {"OMP_NUM_THREADS": str(self.options.threads), "OMP_WAIT_POLICY": "passive"}
        return found

    @property
    def vocabulary(self) -> int:
        self.worker  # noqa: B018, starts it
        return int(self.flags["vocab_size"])

    def reset_audit(self) -> None:
        """Count from here on: the warm-up is over."""
        self.audit = Audit()

    @property
    def age(self) -> float:
        """Seconds since the launch's first process started."""
        return time.monotonic() - self.worker.started

    def generate(
        self, prompts: Prompts, *, temperature: float, logprobs: bool = False, cached: int | None = None
    ) -> Rollouts:
        """Generate for each prompt as many tokens as it asks for; `cached` declares how many prompt tokens the prefix
        cache will give, which the audit holds against what it gave."""
        into, back = self.worker.folder / "prompts", self.worker.folder / "rollouts"
        reply = self.worker.call(
            "generate", self.timeout, prompts=str(into), layout=prompts.save(into), rollouts=str(back),
            temperature=temperature, logprobs=logprobs,
        )  # fmt: skip
        out = Rollouts.load(back, reply.value)
        self.audit.add(prompts, out, cached)
        return out

    def flush(self) -> float:
        """Empty the prefix cache; seconds on the worker's clock."""
        return self.worker.call("flush", self.timeout).seconds

    def memory_gib(self) -> float:
        """The metric `peak_memory`."""
        if self.environment.device == "cuda":
            return float(np.sum(machine.device_memory_mib())) / 1024
        return self.worker.peak_memory() / GIB

    def shut_down(self) -> Certificate:
        """End the engine; the certificate says whether processes or device memory stayed behind."""
        try:
            killed = self.worker.close(CLOSE_TIMEOUT)
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
            (now - then for now, then in zip(machine.device_memory_mib(), self._baseline, strict=False)), default=0
        )


def log_path(folder: Path, engine: str, order: int) -> Path:
    return folder / f"{engine}-{order}-{os.getpid()}.log"

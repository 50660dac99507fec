"""A scenario: what one step of a measurement does. benchmarks/ holds them, each a frozen dataclass with its CASES."""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.errors import UserError, nearest

if TYPE_CHECKING:
    from harness.record import Certificate
    from harness.rig import Rig


@dataclass(frozen=True)
class Options:
    """Engine options in neutral words, the same for every engine; harness/worker/options.py maps them to each engine's
    own flags (`rollbench options` shows how)."""

    dtype: str = "bfloat16"
    seed: int = 0
    tensor_parallel: int = 1  # GPUs that share each matrix
    max_model_len: int = 4096
    max_running: int = 512  # requests at once
    chunked_prefill: int = 8192  # prompt tokens in one forward pass
    graph_batch: int = 512  # the largest batch in a CUDA graph
    eager: bool = False  # no compilation, no CUDA graphs
    prefix_caching: bool = True
    multiprocessing: bool = True  # vLLM: the engine core in a process of its own (SGLang always has one)
    memory_fraction: float = 0.8  # of the GPU
    kv_tokens: int = 0  # tokens that the cache holds (0: as many as the memory fraction allows)
    kv_dtype: str = "auto"
    attention: str = "auto"
    lora_rank: int = 0  # of an adapter that can be brought in while the engine runs (0: none)
    sleep: bool | Literal["backed_up"] = False  # able to give device memory back
    threads: int = 1  # of each engine process on a CPU
    native: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # engine: its own flags, over all others

    def of(self, engine: str) -> dict[str, Any]:
        """What a worker of this engine is told."""
        return asdict(self) | {"native": dict(self.native.get(engine, {}))}


@dataclass(frozen=True, kw_only=True)
class Scenario(ABC):
    """Parameters of a measurement, and how one step of it runs. `gpus` 0: a CPU suffices.

    `steady`: the metric that must have settled before steps count, and must not drift while they do. `shares`: the
    cases of all scenarios that say the same differ only in what is done to a running engine, so those of equal settings
    are measured in turn in one launch. `again`: a step may be done a second time as it was the first.
    """

    shares: ClassVar[str] = ""

    model: str
    gpus: int = 0
    warmup: int = 2  # steps before the first that counts, more where they have not settled
    steps: int = 5
    options: Options = Options()

    @property
    def engines(self) -> tuple[str, ...]:
        """Those whose own matter this is, which alone are measured; none: it is of every engine."""
        return ()

    def runs_on(self, engine: str) -> bool:
        return not self.engines or engine in self.engines

    @property
    def steady(self) -> str:
        return "step_time"

    @property
    def again(self) -> bool:
        return True

    def prepare(self, rig: "Rig") -> None:  # noqa: B027, most need nothing
        """Before the engine of a run's first pair starts."""

    @abstractmethod
    def step(self, rig: "Rig", index: int) -> dict[str, float]:
        """One measurement: metric (a name of METRICS) and sample. Another `index`, other token ids of the same work."""

    def finish(self, rig: "Rig") -> dict[str, "Certificate"]:
        """Behind the last step that counts: what must hold besides, by the certificate's name."""
        return {}

    def once(self, rig: "Rig") -> dict[str, float]:
        """Behind the last step that counts: metrics with one sample a launch."""
        return {}

    def refusal(self, text: str) -> str | None:
        """The engine's own words in an error and its log where they say that it cannot do this at all."""
        return None

    def params(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "options"}


def cases() -> dict[str, Scenario]:
    """Every case of benchmarks/ by its full name, `scenario/case`."""
    import benchmarks

    found: dict[str, Scenario] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.ispkg):
        loaded = importlib.import_module(f"benchmarks.{module}")
        found |= {f"{module}/{name}": case for name, case in loaded.CASES.items()}
    return found


def main_job(gpus: int) -> Sequence[str]:
    """The cases that run when none is named."""
    import benchmarks

    return benchmarks.MAIN_GPU if gpus else benchmarks.MAIN_CPU


def select(names: Sequence[str], gpus: int) -> dict[str, Scenario]:
    """Cases by full name, by scenario (those that a machine of so many GPUs can run), or by pattern (`single_turn/*`).

    No name at all means the main job. Raises UserError for a name that fits nothing or needs more GPUs.
    """
    known = cases()
    chosen: dict[str, Scenario] = {}
    scenarios = {name.partition("/")[0] for name in known}
    able = {name: case for name, case in known.items() if case.gpus <= gpus}
    for name in names or main_job(gpus):
        if name in known and name not in able:
            raise UserError(f"case {name} needs {known[name].gpus} GPU(s), this machine has {gpus}")
        pattern = name if "/" in name else f"{name}/*"
        fitting = {full: case for full, case in able.items() if fnmatchcase(full, pattern)}
        if not fitting:
            raise UserError(f"no case {name!r}: {nearest(name, {*known, *scenarios})} (`rollbench list` shows all)")
        chosen |= fitting
    return chosen

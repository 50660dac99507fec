"""The features that the matrix has a row for: which cases probe each, and what must hold in a record for a yes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from harness import scenario
from harness.metrics import METRICS
from harness.record import Record
from harness.scenario import Scenario
from harness.worker.options import ATTENTION
from harness.worker.transports import OWN_WAYS, TRANSPORTS

ROOT_CAUSE = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception): (?![^\n]*root cause)[^\n]+")  # vLLM's wrapper names none

UNSET = (None, "", 0, 1)  # what a flag says that is not used


class State(StrEnum):
    """Of a feature on an engine; where records disagree the first of these counts."""

    YES = "yes"
    NO = "no"
    INVALID = "invalid"
    FAILED = "failed"
    IMPOSSIBLE = "not possible here"
    NONE = "not measured"


Said = tuple[State, str]


@dataclass(frozen=True)
class Probe:
    """`cases`: patterns of the cases that probe it, `also`: of others whose records speak of it; `params`: what a
    case's parameters must be, `only`: what must be true of a record to speak of it. For a yes every certificate holds,
    these `certificates` were judged, samples of the metric `above` are above 0, and of the engine's own `flags` one is
    set. `why`: what cannot be probed."""

    feature: str
    cases: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    only: Callable[[Record], bool] = lambda record: True
    certificates: tuple[str, ...] = ()
    above: str = ""
    flags: tuple[str, ...] = ()
    why: str = ""

    @property
    def told(self) -> str:
        """What a yes asks for besides certificates that hold."""
        more = [f"{METRICS[self.above].title} above 0"] if self.above else []
        return ", ".join([*self.certificates, *more, *(["its flag"] if self.flags else [])])

    def candidates(self, engine: str) -> dict[str, Scenario]:
        """The cases that probe it on an engine."""
        known = scenario.cases()
        names = dict.fromkeys(name for pattern in self.cases for name in known if fnmatchcase(name, pattern))
        return {name: known[name] for name in names if known[name].runs_on(engine) and self._so(known[name].params())}

    def speaks(self, record: Record) -> bool:
        """Whether a record says anything of it."""
        fits = any(fnmatchcase(record.case, pattern) for pattern in (*self.cases, *self.also))
        return fits and self._so(record.params) and self.only(record)

    def outcome(self, record: Record) -> Said:
        """What a record says of it, in a few words."""
        state, words = outcome(record, self.certificates, self.above)
        if state == State.YES and self.flags and all(record.flags.get(name) in UNSET for name in self.flags):
            return State.INVALID, f"{' and '.join(self.flags)} not set in the engine's flags"
        return state, words

    def _so(self, params: Mapping[str, Any]) -> bool:
        return all(params.get(name) == value for name, value in self.params.items())


def outcome(record: Record, certificates: Sequence[str] = (), above: str = "") -> Said:
    """What became of a record's launches; no yes without these certificates and without figures above 0 of `above`."""
    if record.unsupported:
        return State.NO, record.unsupported
    if not record.good:
        return State.FAILED, root_cause(record.launches[0].error or "")
    if record.broken:
        return State.INVALID, record.broken[0]
    for launch in record.good:
        for name in certificates:
            if (held := launch.certificates.get(name)) is None or not held.ok:
                return State.INVALID, f"launch {launch.order}, {name}: {held.reason if held else 'not judged'}"
        if above and not sum(launch.samples.get(above, ())) > 0:
            return State.INVALID, f"launch {launch.order}: {METRICS[above].title} is not above 0"
    return State.YES, f"{len(record.good)} launch{'es' if len(record.good) > 1 else ''}"


def root_cause(error: str) -> str:
    """The first error that an engine's log names, else the first line of ours."""
    first, _, log = error.partition("\n")
    found = ROOT_CAUSE.search(log) or ROOT_CAUSE.search(first)
    return found[0] if found else first


def uses(gpus: Sequence[str], attention: str) -> Callable[[Record], bool]:
    """Records of a machine with one of these GPUs (any, where none is named) and this attention backend."""
    names = {name for row in ATTENTION.items() if row[0] == attention for name in (row[0], *row[1])}

    def only(record: Record) -> bool:
        used: Any = [record.flags.get("attention_backend"), record.options.get("attention")]
        there = any(name in gpu for gpu in record.machine.gpus for name in gpus or [""])
        return there and any(str(value).strip("[]'") in names for value in used)

    return only


RL = ("proof", "mismatch")
SLEEP = {  # feature: the end of its cases' names, and what was to be freed
    "sleep level 0 (pause)": ("pause", False),
    "sleep level 1 (weights backed up)": ("backup", True),
    "sleep level 1, woken in stages": ("backup-staged", True),
    "sleep level 2 (weights discarded)": ("discard", True),
    "sleep level 2, woken in stages": ("discard-staged", True),
    "sleep tag weights": ("weights", True),
    "sleep tag kv_cache": ("kv", True),
    "sleep tag cuda_graphs": ("discard-graphs", True),
}
BACKED_UP = "sleep_wake/tiny"  # whose name does not say so

PROBES = {probe.feature: probe for probe in (
    *(Probe(feature, (f"rl_step/*-{name}",), certificates=RL)
      for feature, name in (("GRPO", "grpo"), ("PPO with GAE", "ppo"), ("RLOO", "rloo"), ("DAPO", "dapo"))),
    Probe("LoRA", ("rl_step/*-lora", "adapter_sync/*-lora"), certificates=("proof",)),
    Probe("LoRA adapter alone", ("adapter_sync/*-lora", "rl_step/*-adapter"), certificates=("proof",)),
    Probe("tensor parallel", ("single_turn/*-tp[0-9]*", "*-tp[0-9]*"), flags=("tensor_parallel_size", "tp_size")),
    Probe("pipeline parallel", ("single_turn/*-pp[0-9]*",), flags=("pipeline_parallel_size", "pp_size")),
    Probe("FSDP2 training", ("rl_step/*-ranks",), certificates=RL),
    Probe("Megatron training", why="trainers/ has FSDP2 alone"),
    Probe("multi-node", why="every machine was one node"),
    Probe("prefix caching", ("multi_turn/*-shared", "multi_turn/*-groups", "multi_turn/*-agent"),
          certificates=("cache",), above="cache_share"),
    Probe("speculative decoding", ("single_turn/*-speculative",),
          flags=("speculative_method", "speculative_algorithm")),
    *(Probe(feature, (f"sleep_wake/*-{end}", *((BACKED_UP,) if end == "backup" else ())),
            certificates=("outputs", "freed") if freed else ("outputs",)) for feature, (end, freed) in SLEEP.items()),
    *(Probe(f"attention {name}", (f"single_turn/*-{name}", f"multi_turn/*-{name}"),
            ("single_turn/*", "multi_turn/*", "long_context/*"), only=uses((), name)) for name in ATTENTION),
    *(Probe(f"transport {name}", ("weight_sync/*",), params={"transport": name}, certificates=("proof",))
      for name in (*TRANSPORTS, *OWN_WAYS)),
)}  # fmt: skip

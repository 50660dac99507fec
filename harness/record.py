"""The record: all launches of one case on one engine, machine and commit. It describes itself and is never edited.

`python -m harness.record` prints its JSON Schema, which docs/record.schema.json holds.
"""

import json
from typing import Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from harness.errors import NotComparable
from harness.machine import Machine

# Options and parameters that came after the first records: what a record without one ran with. None: whatever each
# engine does when it is not told. A default that changes later changes nothing here.
OPTIONS_BEFORE = {
    "tensor_parallel": 1, "chunked_prefill": None, "graph_batch": 512, "kv_tokens": 0, "kv_dtype": "auto",
    "attention": "auto", "lora_rank": 0, "sleep": False,
}  # fmt: skip
INFERENCE_BEFORE = {"concurrency": 0, "stream": False, "cache_floor": 0.0, "flush": True}
PARAMS_BEFORE: dict[str, dict[str, Any]] = {  # by scenario
    "single_turn": INFERENCE_BEFORE | {"samples": 1, "rate": 0.0, "arrivals": "poisson"},
    "multi_turn": {"flush": True},
    "long_context": {"flush": True},
    "replay": {"flush": True},
    "sleep_wake": {"senders": 1},
    "weight_sync": {"senders": 1, "colocated": True, "bucket": 64, "merged_rank": 0, "straight": False},
}
RENAMED = {"single_turn": {"requests": "prompts"}}  # parameters, by scenario: the old name and today's


# Certificates that a machine breaks by itself. So is one whose figures drift, which of some twenty launches one does by
# chance; as many as DRIFTING do not.
OF_THE_MACHINE = ("load", "gpu", "steady")
DRIFTING = 2


class Certificate(BaseModel):
    """Whether a condition that the figures rest on held: the cell is invalid when one did not. `ok` None: it does not
    apply, and `reason` says why."""

    model_config = ConfigDict(extra="forbid")
    ok: bool | None
    figure: float
    reason: str


class Commit(BaseModel):
    """What code was measured. `tree` is git's hash of the committed tree; `dirty` says that the files differed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    tree: str
    dirty: bool


class Launch(BaseModel):
    """One fresh set of processes. A launch that failed has its `error`; one whose engine cannot do this at all has that
    engine's own words in `unsupported`. Neither has samples."""

    model_config = ConfigDict(extra="forbid")
    order: int  # its place in the run, over all engines
    pair: int  # launches of different engines with one number ran next to each other
    started: AwareDatetime
    ended: AwareDatetime
    boot_id: str
    age_s: float | None = None  # of the processes when the first step was measured
    machine_state: dict[str, Any] = {}  # before and after
    certificates: dict[str, Certificate] = {}
    facts: dict[str, Any] = {}
    samples: dict[str, list[float]] = {}
    error: str | None = None
    unsupported: str | None = None

    def red(self, name: str) -> str:
        """What does not hold of a certificate; empty where it holds, or is not there."""
        held = self.certificates.get(name)
        return f"{name}: {held.reason}" if held and held.ok is False else ""

    @property
    def spoilt(self) -> str:
        """What the machine did that makes the figures void; empty where it left them alone."""
        return next(filter(None, map(self.red, OF_THE_MACHINE)), "")


class Record(BaseModel):
    """One file of results/."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    schema_version: Literal[1] = Field(default=1, alias="schema")
    run: str  # records of one run have interleaved launches
    case: str
    scenario: str
    engine: str
    params: dict[str, Any]
    options: dict[str, Any]
    flags: dict[str, Any]  # the engine's own, as it resolved them
    lane: str
    versions: dict[str, str]
    lock_hash: str
    machine: Machine
    commit: Commit
    started: AwareDatetime
    ended: AwareDatetime
    launches: list[Launch]

    @model_validator(mode="after")
    def _with_later_fields(self) -> Self:
        """A record of any age has all fields of today in its options and parameters; its file stays as it is."""
        names, before = RENAMED.get(self.scenario, {}), PARAMS_BEFORE.get(self.scenario, {})
        self.options = OPTIONS_BEFORE | self.options
        self.params = before | {names.get(name, name): value for name, value in self.params.items()}
        return self

    @property
    def measured(self) -> list[Launch]:
        """Launches that were measured to their end."""
        return [launch for launch in self.launches if launch.error is None and launch.unsupported is None]

    @property
    def good(self) -> list[Launch]:
        """Those that count: without those that the machine spoilt, where these are the fewer."""
        measured = self.measured
        kept = [launch for launch in measured if not launch.spoilt]
        return kept if 2 * len(kept) > len(measured) else measured

    @property
    def unsupported(self) -> str | None:
        """The engine's own words, where it cannot do what was to be measured."""
        return next((launch.unsupported for launch in self.launches if launch.unsupported), None)

    def samples(self, metric: str, pairs: set[int] | None = None) -> list[list[float]]:
        """The samples of a metric, a list a good launch, in the order of their pairs; or a launch of these `pairs`."""
        kept = self.good if pairs is None else [launch for launch in self.measured if launch.pair in pairs]
        return [launch.samples[metric] for launch in kept if launch.samples.get(metric)]

    @property
    def workload(self) -> Any:
        """Hashes of the token ids sent, a step each; the same in every launch."""
        return next((launch.facts.get("workload_sha256") for launch in self.good), None)

    @property
    def broken(self) -> list[str]:
        """Certificates that did not hold: `launch 3, cache: 128 tokens came from …`."""
        return [
            f"launch {launch.order}, {name}: {certificate.reason}"
            for launch in self.good
            for name, certificate in launch.certificates.items()
            if certificate.ok is False
        ]

    @property
    def spoilt(self) -> str:
        """What the machine did that makes all figures void; empty where it did not, or something else failed too, such
        as the engine, whose figures drift in more than one launch."""
        red = [name for launch in self.good for name, held in launch.certificates.items() if held.ok is False]
        machine = set(red) <= set(OF_THE_MACHINE) and red.count("steady") < DRIFTING
        return self.broken[0] if red and machine else ""

    def must_compare(self, other: "Record") -> None:
        """Raises NotComparable, naming the field, unless both measured the same thing on the same kind of machine."""
        fields: tuple[tuple[str, Any, Any], ...] = (
            ("case", self.case, other.case),
            ("params", self.params, other.params),
            ("options", self.options, other.options),
            ("machine", self.machine.same_kind(), other.machine.same_kind()),
            ("workload", self.workload, other.workload),
        )
        for name, before, after in fields:
            if before != after:
                where, was, now = difference(name, before, after)
                raise NotComparable(f"{self.case}: {where} was {was!r}, now {now!r}: records cannot be compared")


def difference(name: str, before: Any, after: Any) -> tuple[str, Any, Any]:
    """The innermost field in which two values differ, dotted, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                return difference(f"{name}.{key}", before.get(key), after.get(key))
    return name, before, after


if __name__ == "__main__":
    print(json.dumps(Record.model_json_schema(), indent=1))

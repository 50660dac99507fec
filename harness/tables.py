"""Tables of the command line that show what there is: cases, options, a plan, a record."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich.table import Table

import benchmarks
from harness import scenario
from harness.compare import plain
from harness.plan import Key, Plan, spoken
from harness.record import Certificate, Launch, Record
from harness.worker import options

UNSHOWN = ("model", "gpus", "warmup", "steps", "seed", "options")  # parameters with columns of their own, or none
STATES = {True: "ok", False: "NOT OK", None: "not applicable"}


def of_cases(gpus: int) -> Table:
    """Every case: with which model, what sets it apart, and whether a machine with so many GPUs can run it.

    What sets it apart: parameters that are not the scenario's defaults, options that are not its lane's.
    """
    main = scenario.main_job(gpus)
    table = Table()
    for header in ("case", "model", "what sets it apart", "here"):
        table.add_column(header, overflow="fold")
    for name, case in scenario.cases().items():
        defaults = {f.name: f.default for f in fields(case)}
        apart = {k: v for k, v in case.params().items() if k not in UNSHOWN and v != defaults[k]}
        lane = (benchmarks.GPU if case.gpus else benchmarks.CPU).of("")
        apart |= {k: v for k, v in case.options.of("").items() if v != lane[k]}
        here = "yes" if case.gpus <= gpus else f"needs {case.gpus} GPU"
        here += f", {' and '.join(case.engines)} alone" if case.engines else ""
        table.add_row(
            name, case.model, ", ".join(f"{k} {v}" for k, v in apart.items()) or "the scenario's defaults",
            here + (", main job" if name in main else ""),
        )  # fmt: skip
    return table


def of_options() -> Table:
    """The equivalence table of engine options."""
    table = Table("option", "meaning", "default", "vLLM", "SGLang")
    for name, row in options.ROWS.items():
        value = getattr(scenario.Options(), name)
        shown = options.EXAMPLES.get(name, value)
        flags = (", ".join(f"{k}={v}" for k, v in getattr(row, engine)(shown).items()) for engine in ("vllm", "sglang"))
        table.add_row(name, row.meaning + (" (GPU only)" if row.device else ""), str(value), *flags)
    return table


def of_plan(expected: Plan, planned: Sequence[Sequence[Key]], launches: int) -> Table:
    """What a run would do: launches of each engine for one case, or for several that share them; how long they take."""
    total = spoken(expected.total(planned) * launches)
    table = Table("case", "engine", "launches", "a launch", title=f"about {total} in all", title_justify="left")
    for keys in planned:
        known = sum(bool(expected.known.get(key)) for key in keys)
        how = "measured before" if known == len(keys) else "partly a guess" if known else "a guess"
        shared = f" for its {len(keys)} cases" if len(keys) > 1 else ""
        names = "\n".join(case for case, _ in keys)
        table.add_row(names, keys[0][1], str(launches), f"{spoken(expected.seconds(*keys))}{shared} ({how})")
    return table


def of_record(found: Record) -> Table:
    """One record: what was measured, how, on what, and every launch."""
    table = Table(title=plain(f"{found.case} on {found.engine}"), show_header=False, title_justify="left")
    about = {
        "measured": f"{found.started:%Y-%m-%d %H:%M} to {found.ended:%H:%M} UTC",
        "machine": f"{found.machine.cpu}, {found.machine.cores} cores, {', '.join(found.machine.gpus) or 'no GPU'}",
        "lane": f"{found.lane}, lock {found.lock_hash[:8] or 'none'}",
        "commit": found.commit.id + (" (files differed)" if found.commit.dirty else ""),
    }
    parts = {"params": found.params, "options": found.options, "flags": found.flags, "versions": found.versions}
    for name, text in (about | {k: ", ".join(f"{a}={b}" for a, b in v.items()) for k, v in parts.items()}).items():
        table.add_row(name, plain(text))
    for launch in found.launches:
        table.add_row(f"launch {launch.order}, pair {launch.pair}", plain(launch.error or _launch(launch)))
    return table


def _launch(launch: Launch) -> str:
    if launch.unsupported:
        return f"not supported: {launch.unsupported}"
    lines = [_shared(launch.facts["shared"])] if "shared" in launch.facts else []
    lines += [_certificate(name, certificate) for name, certificate in launch.certificates.items()]
    lines += [f"{name}: {', '.join(f'{v:g}' for v in values)}" for name, values in launch.samples.items()]
    lines += [f"{name}: none, {why}" for name, why in launch.facts.get("not_computed", {}).items()]
    return "\n".join(lines)


def _shared(fact: Mapping[str, Any]) -> str:
    return f"case {fact['position']} of {len(fact['cases'])} in its launch: {', '.join(fact['cases'])}"


def _certificate(name: str, certificate: Certificate) -> str:
    return f"certificate {name}: {STATES[certificate.ok]}, {certificate.reason}"

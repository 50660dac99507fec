"""Tables of the command line that show what there is: cases, options, a plan, a record."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich.table import Table

import benchmarks
from harness import scenario
from harness.calibrate import Rates, Spread
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


def of_spreads(found: Mapping[tuple[str, str, str], Spread], pairs: Sequence[int], alpha: float) -> Table:
    """How each metric varies here, and the smallest change that the gate finds with 80 % power: alone, and with one of
    so many cells that block."""
    title = f"spread on this machine, and the change found in four of five gates (alone / one of {len(found)} cells)"
    table = Table(title=title, title_justify="left")
    for header in ("case", "engine", "metric", "launches", "inside one", "rests on", *(f"{n} pairs" for n in pairs)):
        table.add_column(header, overflow="fold")
    for (case, engine, _), spread in found.items():
        metric = spread.metric
        both = ((spread.detectable(n, level) for level in (alpha, alpha / len(found))) for n in pairs)
        seen = (" / ".join(of_amount(v, spread.ratio, metric.unit) for v in pair) for pair in both)
        own = (of_amount(v, spread.ratio, metric.unit) for v in (spread.between, spread.within))
        table.add_row(plain(case), plain(engine), metric.title, *own, f"{spread.freedom} df", *seen)
    return table


def of_rates(found: Sequence[Rates], metrics: int, trials: int, about: str) -> Table:
    """False alarms and power by the number of pairs."""
    table = Table(title=f"{about}; {trials} simulated gates each", title_justify="left")
    effects = list(found[0].power)
    alarms = (f"any false regress of {metrics}", "any false change")
    both = (
        f"{what} (alone / one of {metrics})"
        for what in ("pass where nothing changed", *(f"+{e:.3g} % found" for e in (effect * 100 for effect in effects)))
    )
    for header in ("pairs", *alarms, *both):
        table.add_column(header)
    for rates in found:
        power = (rates.power[effect] for effect in effects)
        shown = (f"{alone:.1%} / {among:.1%}" for alone, among in (rates.sure, *power))
        table.add_row(str(rates.pairs), f"{rates.alarm:.1%}", f"{rates.flag:.1%}", *shown)
    return table


def of_rivals(found: Mapping[tuple[str, int], tuple[float, float]], cells: int, effect: float) -> Table:
    """What other tools say of the same sessions; none of them corrects for the number of cells."""
    table = Table(title="other tools on the same sessions", title_justify="left")
    for header in ("tool", "pairs", f"any false regress of {cells}", f"+{effect * 100:.3g} % found"):
        table.add_column(header)
    for (name, pairs), (alarm, power) in found.items():
        table.add_row(name, str(pairs), f"{alarm:.1%}", f"{power:.1%}")
    return table


def of_amount(value: float, share: bool, unit: str = "") -> str:
    """`3.4 %`, or an amount with its unit; what nobody would call a figure any more is `-`."""
    if not share:
        return f"{value:.2g} {unit}".strip() if value < 1e6 else "-"
    return f"{value:.1%}".replace("%", " %") if value < 10 else "over 10x"


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

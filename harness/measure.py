"""A case measured in a launch: warm-up until it has settled, steps that count, then its figures and certificates."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import efficiency, machine, models, rates, stats, store
from harness.audit import Audit
from harness.record import Certificate, Launch
from harness.rig import GIB, MIB_A_GIB, Rig
from harness.rollouts import Requests, Rollouts
from harness.scenario import Scenario
from harness.series import Floats, Series, Window, gpu_certificate, load_certificate

WARM = 1_000_000  # the index of the first warm-up step: however many there are, the measured ones are the same work
WARM_UP_AT_MOST = 4  # times the steps that a scenario wants at least
WARM_UP_SECONDS = 60.0  # behind which none is added to those
DRIFT, DRIFT_P = 0.10, 0.01  # the change over the measured steps that is too large, when its slope is no accident
TELLING = 5  # steps from which a trend can be told from noise
ANEW, ANEW_SECONDS = 2, 60.0  # times that steps with a trend are measured anew, and how long behind the first of them
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

Tell = Callable[[str], None]
Samples = dict[str, list[float]]


@dataclass
class Measured:
    """A case on its way through a launch: what its figures are made of. Times are of time.monotonic().

    The launch's fact `shared` says which cases it measures, and this one's place among them; a case that never shares
    one has no such fact.
    """

    name: str
    scenario: Scenario
    log: Path
    launch: Launch
    opened: float = 0.0  # the warm-up
    begun: float = 0.0  # the steps that count
    ended: float = 0.0
    warm: list[float] = field(default_factory=list)
    drifted: list[list[float]] = field(default_factory=list)  # the steady metric of steps that were measured anew
    samples: Samples = field(default_factory=dict)
    certificates: dict[str, Certificate] = field(default_factory=dict)  # that the scenario itself gives
    once: dict[str, float] = field(default_factory=dict)  # figures that it gives with one sample a launch
    audit: Audit = field(default_factory=Audit)
    facts: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    baseline_mib: list[int] = field(default_factory=list)
    startup: float = 0.0

    @property
    def shared(self) -> dict[str, Any]:
        return dict(self.launch.facts.get("shared", {}))


def measure(rig: Rig, case: Measured, tell: Tell) -> None:
    """Measure a case's steps on the rig's engine, which goes on; what else was opened for the case is closed again."""
    scenario = case.scenario
    rig.begin(case.log)
    case.opened = time.monotonic()
    case.warm = warm_up(rig, scenario, tell)
    steps(rig, case, tell)
    case.memory = rig.engine_memory()
    case.certificates, case.once = scenario.finish(rig), scenario.once(rig)
    rig.unlink()
    case.audit, case.facts, case.baseline_mib, case.startup = rig.audit, rig.facts, rig.baseline_mib, rig.startup


def steps(rig: Rig, case: Measured, tell: Tell) -> None:
    """Run the steps that count. Where they have a trend, those were warm-up too, and they run anew: a host that others
    share is faster at one time than at another, for tens of seconds."""
    scenario, first = case.scenario, time.monotonic()
    while True:
        rig.reset_audit()
        case.launch.age_s, case.begun, case.samples = rig.age, time.monotonic(), {}
        for step in range(scenario.steps):
            tell(f"step {step + 1} of {scenario.steps}{', anew' if case.drifted else ''}")
            for metric, sample in scenario.step(rig, step).items():
                case.samples.setdefault(metric, []).append(sample)
        case.ended = time.monotonic()
        values = case.samples.get(scenario.steady, [])
        over = not scenario.again or len(case.drifted) == ANEW or case.ended - first > ANEW_SECONDS
        if over or steady(values, case.warm, len(case.drifted)).ok is not False:
            return
        case.drifted.append([_short(value) for value in values])


def fill(case: Measured, series: Series, began: float, clean: Certificate) -> None:
    """Give a measured case's launch its figures, certificates and facts. `series`: what the sampler has seen since the
    launch `began`. Done again when more is known."""
    launch, scenario = case.launch, case.scenario
    window, whole = series.window(case.begun, case.ended), series.window(began, time.monotonic())
    own = series.window(case.opened, case.ended) if case.shared else whole
    tails, missing = case.audit.tails()
    more, reasons = launch_figures(case, scenario, window, own)
    once = tails | more | case.once | {"startup": case.startup}
    samples = case.samples | {name: [value] for name, value in once.items()}
    launch.samples = {name: [_short(value) for value in values] for name, values in samples.items()}
    launch.certificates = {
        **case.audit.certificates(),
        **case.certificates,
        "steady": steady(samples.get(scenario.steady, []), case.warm, len(case.drifted)),
        "gpu": gpu_certificate(window, case.baseline_mib),
        "load": load_certificate(window, machine.fingerprint().cores),
        "clean": clean,
    }
    launch.facts = {
        **case.facts,
        **({"shared": case.shared} if case.shared else {}),
        "workload_sha256": case.audit.hashes,
        "log": case.log.name,
        "warm_up": [_short(value) for value in case.warm],
        **({"drifted": case.drifted} if case.drifted else {}),
        "not_computed": missing | reasons,
        "window": _shortened(dataclasses.asdict(window)),
        "device_memory_mib": {"before": case.baseline_mib, "peak": own.peak_used_mib, "after": whole.used_last_mib},
        "engine_memory_gib": case.memory,
        **({"sampler": series.problem} if series.problem else {}),
    }
    store.write(case.log.with_suffix(".requests.json"), json.dumps(case.audit.table()) + "\n")


def warm_up(rig: Rig, scenario: Scenario, tell: Tell) -> list[float]:
    """Run steps that do not count: at least as many as the scenario wants, then until the last three agree within 10 %,
    at most four times as many, and for a minute behind the first, which sets things up. The value of the scenario's
    steady metric at each."""
    values, until = list[float](), math.inf
    for index in range(scenario.warmup * WARM_UP_AT_MOST):
        if index >= scenario.warmup and (stats.settled(values) or time.monotonic() > until):
            break
        tell(f"warm-up {index + 1}, at least {scenario.warmup}")
        values.append(scenario.step(rig, WARM + index)[scenario.steady])
        until = min(until, time.monotonic() + WARM_UP_SECONDS)
    return values


def steady(values: Sequence[float], warm: Sequence[float], anew: int = 0) -> Certificate:
    """Whether the measured steps have no trend left. `anew`: how often they were measured before, with one."""
    settled = "settled" if stats.settled(warm) or len(warm) < 3 else "not settled"
    behind = f"{settled} after {len(warm)} warm-up steps"
    behind += f", measured anew {'twice' if anew == ANEW else 'once'}" if anew else ""
    if len(values) < TELLING:
        reason = f"{len(values)} steps, {TELLING} needed to tell a trend from noise; {behind}"
        return Certificate(ok=None, figure=0, reason=reason)
    change, p = stats.drift(values)
    reason = f"{change:+.1%} from the first to the last step (p {p:.2f}), {behind}"
    chance = p > DRIFT_P and not anew  # which does not come a second time
    return Certificate(ok=abs(change) <= DRIFT or chance, figure=round(change, 4), reason=reason)


def launch_figures(
    case: Measured, scenario: Scenario, window: Window, life: Window
) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics with one sample a launch, and why others have none."""
    found, missing = dict[str, float](), dict[str, str]()
    if scenario.gpus:
        if peaks := _all(life.peak_used_mib, scenario.gpus):
            found["peak_memory"] = (sum(peaks) - sum(case.baseline_mib[: scenario.gpus])) / MIB_A_GIB
        else:
            missing["peak_memory"] = "the sampler read no memory of the GPUs"
    elif life.peak_rss:
        found["peak_memory"] = life.peak_rss / GIB
    else:
        missing["peak_memory"] = "the sampler read no memory of the processes"
    if window.peak_rss:
        found["host_memory"] = window.peak_rss / GIB
    tokens = sum(int(out.output_B.sum()) for _, out in case.audit.calls)
    joules = _all(window.energy_j, scenario.gpus)
    if tokens and joules:
        found["energy"] = sum(joules) / tokens
    elif scenario.gpus:
        missing["energy"] = "no energy counter that advanced in the window" if tokens else "nothing was generated"
    else:
        missing["energy"] = "no GPU"
    if busy := _all(window.utilisation_mean, scenario.gpus):
        found["gpu_busy"] = sum(busy) / len(busy) / 100
    else:
        missing["gpu_busy"] = "the sampler read no utilisation of the GPUs" if scenario.gpus else "no GPU"
    useful, why = utilisation(case, scenario)
    return found | useful, missing | why


def _all(figures: Floats, gpus: int) -> list[float]:
    """Those of the case's GPUs; none where one is not known."""
    known = [figure for figure in figures[:gpus] if figure is not None]
    return known if len(known) == gpus else []


def utilisation(case: Measured, scenario: Scenario) -> tuple[dict[str, float], dict[str, str]]:
    """MFU and MBU over the measured calls, with their denominators in the case's facts."""
    name = next(iter(machine.gpu_names()), "") if scenario.gpus else ""
    peak, config = rates.peak(name), models.config(scenario.model)
    reason = "no GPU" if not scenario.gpus else f"no peak rates known of {name}" if peak is None else ""
    reason = reason or efficiency.unsupported(config) or ("" if case.audit.calls else "nothing was generated")
    if reason:
        return {}, {"mfu": reason, "mbu": reason}
    assert peak is not None
    flops, read, seconds = work(config, case.audit.calls, DTYPE_BYTES[scenario.options.dtype])
    case.facts["peak_rates"] = dataclasses.asdict(peak)
    found = {"mfu": efficiency.mfu(flops, seconds, peak.tflop_s, scenario.gpus)}
    if reason := efficiency.unread(config):
        return found, {"mbu": reason}
    return found | {"mbu": efficiency.mbu(read, seconds, peak.gb_s, scenario.gpus)}, {}


def work(
    config: dict[str, Any], calls: Sequence[tuple[Requests, Rollouts]], dtype_bytes: int
) -> tuple[float, float, float]:
    """FLOPs, least bytes read (none where they are not counted) and seconds of all calls."""
    flops = read = seconds = 0.0
    counted = not efficiency.unread(config)
    for _, out in calls:
        flops += efficiency.flops(config, out.prompt_B, out.cached_B, out.output_B)
        read += efficiency.bytes_read(config, out.prompt_B, out.output_B, dtype_bytes) if counted else 0.0
        seconds += float(out.seconds)
    return flops, read, seconds


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _shortened(found: Any) -> Any:
    """The same with fewer digits, at any depth."""
    if isinstance(found, dict):
        return {name: _shortened(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_shortened(value) for value in found]
    return _short(found) if isinstance(found, float) else found

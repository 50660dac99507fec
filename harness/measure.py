"""One launch measured: warm-up until it has settled, the steps that count, then the figures and certificates of all."""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from harness import efficiency, machine, models, rates, stats, store
from harness.record import Certificate, Launch
from harness.rig import GIB, MIB_A_GIB, Rig
from harness.rollouts import Requests, Rollouts
from harness.scenario import Scenario
from harness.series import Window, gpu_certificate, load_certificate

WARM = 1_000_000  # the index of the first warm-up step: however many there are, the measured ones are the same work
WARM_UP_AT_MOST = 4  # times the steps that a scenario wants at least
DRIFT, DRIFT_P = 0.10, 0.01  # the change over the measured steps that is too large, when its slope is no accident
TELLING = 5  # steps from which a trend can be told from noise
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

Tell = Callable[[str], None]
Samples = dict[str, list[float]]


def measure(rig: Rig, scenario: Scenario, launch: Launch, tell: Tell) -> None:
    """Measure a scenario's steps and end the engine; the launch gets it all at the end or nothing."""
    rig.worker  # noqa: B018, starts it
    warm = warm_up(rig, scenario, tell)
    rig.reset_audit()
    launch.age_s, begun, samples = rig.age, time.monotonic(), Samples()
    for step in range(scenario.steps):
        tell(f"step {step + 1} of {scenario.steps}")
        for metric, sample in scenario.step(rig, step).items():
            samples.setdefault(metric, []).append(sample)
    ended, memory = time.monotonic(), rig.engine_memory()
    more_certificates, more_figures = scenario.finish(rig), scenario.once(rig)
    tell("waiting for it to end")
    clean, series = rig.shut_down(), rig.series()
    window, life = series.window(begun, ended), series.window(rig.began, time.monotonic())
    tails, missing = rig.audit.tails()
    more, reasons = launch_figures(rig, scenario, window, life)
    once = tails | more | more_figures | {"startup": rig.startup}
    samples |= {name: [value] for name, value in once.items()}
    certificates = rig.audit.certificates()
    store.write(rig.log.with_suffix(".requests.json"), json.dumps(rig.audit.table()) + "\n")
    launch.certificates = {
        **certificates,
        **more_certificates,
        "steady": steady(samples.get(scenario.steady, []), warm),
        "gpu": gpu_certificate(window, rig.baseline_mib),
        "load": load_certificate(window, machine.fingerprint().cores),
        "clean": clean,
    }
    launch.facts = {
        **rig.facts,
        "workload_sha256": rig.audit.hashes,
        "log": rig.log.name,
        "warm_up": [_short(value) for value in warm],
        "not_computed": missing | reasons,
        "window": _shortened(dataclasses.asdict(window)),
        "device_memory_mib": {"before": rig.baseline_mib, "peak": life.peak_used_mib, "after": life.used_last_mib},
        "engine_memory_gib": memory,
        **({"sampler": series.problem} if series.problem else {}),
    }
    launch.samples = {name: [_short(value) for value in values] for name, values in samples.items()}


def warm_up(rig: Rig, scenario: Scenario, tell: Tell) -> list[float]:
    """Run steps that do not count: at least as many as the scenario wants, then until the last three agree within 10 %,
    at most four times as many. The value of the scenario's steady metric at each."""
    values: list[float] = []
    for index in range(scenario.warmup * WARM_UP_AT_MOST):
        if index >= scenario.warmup and stats.settled(values):
            break
        tell(f"warm-up {index + 1}, at least {scenario.warmup}")
        values.append(scenario.step(rig, WARM + index)[scenario.steady])
    return values


def steady(values: Sequence[float], warm: Sequence[float]) -> Certificate:
    """Whether the measured steps have no trend left."""
    if len(values) < TELLING:
        return Certificate(
            ok=None, figure=0, reason=f"{len(values)} steps, {TELLING} needed to tell a trend from noise"
        )
    change, p = stats.drift(values)
    settled = "settled" if stats.settled(warm) or len(warm) < 3 else "not settled"
    reason = f"{change:+.1%} from the first to the last step (p {p:.2f}), {settled} after {len(warm)} warm-up steps"
    return Certificate(ok=abs(change) <= DRIFT or p > DRIFT_P, figure=round(change, 4), reason=reason)


def launch_figures(
    rig: Rig, scenario: Scenario, window: Window, life: Window
) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics with one sample a launch, and why others have none."""
    found, missing = dict[str, float](), dict[str, str]()
    if scenario.gpus:
        peaks = [peak for peak in life.peak_used_mib[: scenario.gpus] if peak is not None]
        if len(peaks) == scenario.gpus:
            found["peak_memory"] = (sum(peaks) - sum(rig.baseline_mib[: scenario.gpus])) / MIB_A_GIB
        else:
            missing["peak_memory"] = "the sampler read no memory of the GPUs"
    elif life.peak_rss:
        found["peak_memory"] = life.peak_rss / GIB
    if window.peak_rss:
        found["host_memory"] = window.peak_rss / GIB
    tokens = sum(int(out.output_B.sum()) for _, out in rig.audit.calls)
    joules = [joule for joule in window.energy_j[: scenario.gpus] if joule is not None]
    if scenario.gpus and tokens and len(joules) == scenario.gpus:
        found["energy"] = sum(joules) / tokens
    elif scenario.gpus:
        missing["energy"] = "no energy counter that advanced in the window" if tokens else "nothing was generated"
    else:
        missing["energy"] = "no GPU"
    useful, why = utilisation(rig, scenario)
    return found | useful, missing | why


def utilisation(rig: Rig, scenario: Scenario) -> tuple[dict[str, float], dict[str, str]]:
    """MFU and MBU over the measured calls, with their denominators in the rig's facts."""
    name = next(iter(machine.gpu_names()), "") if scenario.gpus else ""
    peak, config = rates.peak(name), models.config(scenario.model)
    reason = "no GPU" if not scenario.gpus else f"no peak rates known of {name}" if peak is None else ""
    reason = reason or efficiency.unsupported(config) or ("" if rig.audit.calls else "nothing was generated")
    if reason:
        return {}, {"mfu": reason, "mbu": reason}
    assert peak is not None
    flops, read, seconds = work(config, rig.audit.calls, DTYPE_BYTES[scenario.options.dtype])
    rig.facts["peak_rates"] = dataclasses.asdict(peak)
    return {
        "mfu": efficiency.mfu(flops, seconds, peak.tflop_s, scenario.gpus),
        "mbu": efficiency.mbu(read, seconds, peak.gb_s, scenario.gpus),
    }, {}


def work(
    config: dict[str, Any], calls: Sequence[tuple[Requests, Rollouts]], dtype_bytes: int
) -> tuple[float, float, float]:
    """FLOPs, least bytes read and seconds of all calls."""
    flops = read = seconds = 0.0
    for _, out in calls:
        flops += efficiency.flops(config, out.prompt_B, out.cached_B, out.output_B)
        read += efficiency.bytes_read(config, out.prompt_B, out.output_B, dtype_bytes)
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

"""What `harness.sampler` saw of the machine: figures over a window, and the certificates that rest on them."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.machine import MIB
from harness.record import Certificate

Array = NDArray[np.float64]
POWER_CAP = 0x4
REASONS = {  # NVML's bits for what holds a GPU's clocks down
    0x1: "gpu_idle", 0x2: "applications_clocks", POWER_CAP: "sw_power_cap", 0x8: "hw_slowdown", 0x10: "sync_boost",
    0x20: "sw_thermal", 0x40: "hw_thermal", 0x80: "hw_power_brake", 0x100: "display",
}  # fmt: skip
HARMFUL = {"hw_slowdown", "hw_thermal", "sw_thermal", "hw_power_brake"}
SHARED_MIB = 1024  # memory on a GPU before the launch that says somebody else uses it
BUSY = 50  # % utilisation from which a GPU's clock is judged
LATE = 5  # readings next to one at the power cap that are not judged
LEAST_CLOCK = 0.8  # of the window's median SM clock
FOREIGN_SHARE, FOREIGN_CORES = 0.10, 0.25  # of the cores, and at least: load by others that still passes
THROTTLED_SHARE = 0.01  # of the window

Floats = list[float | None]  # a figure a GPU; None where it does not answer


@dataclass(frozen=True)
class Window:
    """Figures over a stretch of a series; None where nothing was read. Rates are over the part that rows cover."""

    seconds: float
    samples: int  # rows in it
    gap: float  # seconds, the longest stretch of the window without a row
    own_cores: float | None  # mean cores that the engine's session used
    light_cores: float | None
    sampler_cores: float | None
    host_cores: float | None  # all that the host's CPUs did
    host_cpus: float | None  # how many CPUs' time the host counted
    foreign_cores: float | None  # the host's less ours
    load_average: float | None  # the highest
    peak_rss: float | None  # bytes, summed over the session (pages they share count in each)
    least_available: float | None  # bytes of host memory
    throttled_seconds: float | None  # of the cgroup, summed over CPUs
    peak_used_mib: Floats  # by all processes together, as the driver counts it
    used_first_mib: Floats
    used_last_mib: Floats
    energy_j: Floats  # also None when the rows do not reach over the whole window or the counter stands still
    watts_mean: Floats
    utilisation_mean: Floats  # %, of the time, in which some kernel ran
    sm_mhz_min: Floats
    sm_mhz_median: Floats
    sm_share_min: Floats  # the lowest SM clock while busy and not at the power cap, of the median
    celsius_max: Floats
    throttle: list[list[str]]  # names of the reasons seen
    processes_max: Floats  # with a CUDA context at once, anybody's; a GPU is asked every 2 s times the count of GPUs


@dataclass(frozen=True)
class Series:
    """Columns by name: of the host one number a row, of the GPUs one a row and GPU; nan where it was null."""

    columns: dict[str, Array]
    problem: str  # why the series may be cut short; empty when the sampler ended as it should

    @classmethod
    def load(cls, path: Path) -> "Series":
        """Read a series, gzipped or not. What is not a row (a torn line, a traceback) goes into `problem`."""
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rows: list[dict[str, Any]] = []
        other: list[str] = []
        for line in data.decode(errors="replace").splitlines():
            try:
                row = json.loads(line)
                rows.append({"t": row["t"]} | row)
            except (ValueError, TypeError, KeyError):
                other.append(line)
        names = [name for name in rows[0] if name != "end"] if rows else ["t"]
        columns = {name: np.array([row.get(name) for row in rows], dtype=float) for name in names}
        if rows and "end" in rows[-1]:
            return cls(columns, "")
        words = [line for line in other if not line.startswith("{")][-1:] or ["it was killed"]
        return cls(columns, f"the sampler died after {len(rows)} rows: {words[0]}")

    def window(self, start: float, end: float) -> Window:
        """Figures over [start, end] of time.monotonic(); what counts up is interpolated at both ends."""
        t = self.columns["t"]
        inside = (t >= start) & (t <= end)
        span = (max(start, float(t[0])), min(end, float(t[-1]))) if t.size else (start, start)
        host, own, light, sampler = (self._cores(name, span) for name in ("busy", "own", "light", "sampler"))
        used, clocks = [x / MIB for x in self._cards("used", inside)], self._cards("sm_mhz", inside)
        steady = zip(clocks, self._cards("utilisation", inside), self._cards("throttle", inside), strict=True)
        counters = zip(self._cards("millijoules"), self._cards("watts"), strict=True)
        return Window(
            seconds=end - start,
            samples=int(inside.sum()),
            gap=float(np.diff([start, *t[inside], end]).max()),
            own_cores=own,
            light_cores=light,
            sampler_cores=sampler,
            host_cores=host,
            host_cpus=self._cores("total", span),
            foreign_cores=None if host is None or own is None else max(0.0, host - own - (light or 0) - (sampler or 0)),
            load_average=_figure(np.max, self._host("load", inside)),
            peak_rss=_figure(np.max, self._host("rss", inside)),
            least_available=_figure(np.min, self._host("available", inside)),
            throttled_seconds=_grown(t, self._host("throttled"), span),
            peak_used_mib=[_figure(np.max, x) for x in used],
            used_first_mib=[_figure(lambda found: found[0], x) for x in used],
            used_last_mib=[_figure(lambda found: found[-1], x) for x in used],
            energy_j=[_joules(t, *x, (start, end)) for x in counters],
            watts_mean=[_figure(np.mean, x) for x in self._cards("watts", inside)],
            utilisation_mean=[_figure(np.mean, x) for x in self._cards("utilisation", inside)],
            sm_mhz_min=[_figure(np.min, x) for x in clocks],
            sm_mhz_median=[_figure(np.median, x) for x in clocks],
            sm_share_min=[_lowest_share(*x) for x in steady],
            celsius_max=[_figure(np.max, x) for x in self._cards("celsius", inside)],
            throttle=[_names(x) for x in self._cards("throttle", inside)],
            processes_max=[_figure(np.max, x) for x in self._cards("processes", inside)],
        )

    def _host(self, name: str, rows: Any = slice(None)) -> Array:
        """A column; none of it where the machine does not have it."""
        column = self.columns.get(name, np.full(self.columns["t"].shape, np.nan))
        return np.asarray(column[rows])

    def _cards(self, name: str, rows: Any = slice(None)) -> list[Array]:
        """A column of each GPU."""
        return list(self.columns[name][rows].T) if name in self.columns else []

    def _cores(self, name: str, span: tuple[float, float]) -> float | None:
        """Mean growth of a column of CPU seconds."""
        grown = _grown(self.columns["t"], self._host(name), span)
        return None if grown is None else grown / (span[1] - span[0])


def _grown(t: Array, counter: Array, span: tuple[float, float]) -> float | None:
    """How much a counter grew; None unless two readings are there and the rows reach into the span."""
    known = np.isfinite(counter)
    if known.sum() < 2 or span[0] >= span[1]:
        return None
    before, after = np.interp(span, t[known], counter[known])
    return float(after - before)


def _joules(t: Array, millijoules: Array, watts: Array, span: tuple[float, float]) -> float | None:
    """How much the energy counter grew; between two of its readings it grew as the power, read more often, says."""
    counted, known = np.isfinite(millijoules), np.isfinite(watts)
    if counted.sum() < 2 or span[0] < t[counted][0] or span[1] > t[counted][-1]:
        return None
    drawn = t
    if known.sum() > 1:
        power, times = np.maximum(watts[known], 1), t[known]
        drawn = np.interp(t, times, np.append(0, np.cumsum((power[1:] + power[:-1]) / 2 * np.diff(times))))
    before, after = np.interp(np.interp(span, t, drawn), drawn[counted], millijoules[counted]) / 1000
    return float(after - before) if after > before else None


def _figure(figure: Callable[[Array], Any], values: Array) -> float | None:
    """Of the values that are known; None without any."""
    known = values[np.isfinite(values)]
    return float(figure(known)) if known.size else None


def _lowest_share(clock: Array, utilisation: Array, throttle: Array) -> float | None:
    """The lowest clock of the median over all rows, while busy and away from the power cap, which is heavy work's own
    doing (an H100: 1980 MHz in decoding, 1200 in matrix products) and shows some 0.2 s late."""
    asked = np.isfinite(clock)
    if not asked.any():
        return None
    capped = np.nan_to_num(throttle[asked]).astype(int) & POWER_CAP
    near = np.convolve(capped, np.ones(2 * LATE + 1))[LATE:-LATE] > 0
    lowest = _figure(np.min, clock[asked][(utilisation[asked] > BUSY) & ~near])
    return None if lowest is None else lowest / float(np.median(clock[asked]))


def _names(throttle: Array) -> list[str]:
    """Reasons in any of the bit masks."""
    seen = int(np.bitwise_or.reduce(throttle[np.isfinite(throttle)].astype(np.int64)))
    return [name for bit, name in REASONS.items() if seen & bit]


def gpu_certificate(window: Window, baseline_mib: list[int]) -> Certificate:
    """Whether the GPUs were ours alone, cool, and at a steady clock. `baseline_mib`: in use on each before the launch.

    The figure is the lowest SM clock of a busy GPU, as a share of its median; 0 when none was busy.
    """
    if not window.throttle and not baseline_mib:
        return Certificate(ok=None, figure=0, reason="no GPU")
    shares = {i: share for i, share in enumerate(window.sm_share_min) if share is not None}
    reasons = {i: [name for name in seen if name in HARMFUL] for i, seen in enumerate(window.throttle)}
    broken = [
        *(f"GPU {i} held {mib} MiB before the launch" for i, mib in enumerate(baseline_mib) if mib > SHARED_MIB),
        *(f"GPU {i} was throttled: {', '.join(seen)}" for i, seen in reasons.items() if seen),
        *(f"GPU {i} fell to {x:.0%} of its median SM clock while busy" for i, x in shares.items() if x < LEAST_CLOCK),
    ]
    figure = min(shares.values(), default=0.0)
    if not broken and not (window.throttle and window.samples):
        return Certificate(ok=False, figure=figure, reason="no sample of the GPUs in the window")
    held = f"never below {figure:.0%} of the median SM clock" if shares else "no GPU busy, so no clock to judge"
    capped = "; sw_power_cap was seen" if any("sw_power_cap" in seen for seen in window.throttle) else ""
    reason = "; ".join(broken) or f"at most {max(baseline_mib, default=0)} MiB before the launch, {held}"
    return Certificate(ok=not broken, figure=figure, reason=reason + capped)


def load_certificate(window: Window, cores: int) -> Certificate:
    """Whether nobody else used the host's CPUs. `cores` are those the launch may use; the figure is foreign cores."""
    limit = max(FOREIGN_SHARE * cores, FOREIGN_CORES)
    foreign, throttled = window.foreign_cores or 0.0, window.throttled_seconds or 0.0
    if throttled > THROTTLED_SHARE * window.seconds:
        reason = f"the cgroup was throttled for {throttled:.2f} of {window.seconds:.2f} s"
        return Certificate(ok=False, figure=foreign, reason=reason)
    if blind := _blind(window, cores):
        return Certificate(ok=None, figure=foreign, reason=blind)
    reason = f"others used {foreign:.2f} cores of {cores}, at most {limit:.2f} pass"
    return Certificate(ok=foreign <= limit, figure=foreign, reason=reason)


def _blind(window: Window, cores: int) -> str:
    """Why the host's CPU times say nothing about others; empty when they do."""
    if window.host_cores is None or window.foreign_cores is None:
        return "no CPU times of the host in the window"
    if not window.host_cpus:
        return "/proc/stat does not advance"
    if window.host_cpus > 1.1 * cores:
        return f"/proc/stat counts {window.host_cpus:.1f} CPUs, more than the {cores} of the launch"
    ours = sum(x or 0.0 for x in (window.own_cores, window.light_cores, window.sampler_cores))
    if window.host_cores < 0.9 * ours - 0.1:
        return f"/proc/stat counts {window.host_cores:.2f} busy cores, less than our own {ours:.2f}"
    return ""

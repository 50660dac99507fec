"""Figures over a window of a series, and the certificates that rest on them."""

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from harness.series import MIB, Series, Window, gpu_certificate, load_certificate


def series(folder: Path, change: Any = lambda i, row: None, count: int = 11, tail: str = '{"t":') -> Series:
    """A row a second: 2 of 4 cores ours, 2.25 busy, one GPU at 100 W, 50 W in the second half."""
    path = folder / "series.jsonl"
    with path.open("w") as file:
        for i in range(count):
            row: dict[str, Any] = {
                "t": float(i), "busy": 2.25 * i, "total": 4.0 * i, "load": i / 10, "own": 2.0 * i, "rss": 1000 - i,
                "light": 0.1 * i, "sampler": 0.01 * i, "available": 5000 + i, "throttled": 0.0, "throttles": 0,
                "used": [(10 + i) * MIB], "watts": [100 if i < 5 else 50], "sm_mhz": [2000 - i], "memory_mhz": [2619],
                "celsius": [40 + i], "throttle": [1 if i else 4], "utilisation": [99], "processes": [1],
                "millijoules": [1000 * (100 * min(i, 5) + 50 * max(i - 5, 0))],
            }  # fmt: skip
            change(i, row)
            file.write(json.dumps(row) + "\n")
        file.write(tail)
    return Series.load(path)


def test_figures(tmp_path: Path) -> None:
    window = series(tmp_path).window(1.5, 9.5)
    expected = {
        "seconds": 8, "samples": 8, "gap": 1, "own_cores": 2, "light_cores": 0.1, "sampler_cores": 0.01,
        "host_cores": 2.25, "host_cpus": 4, "foreign_cores": 0.14, "load_average": 0.9, "peak_rss": 998,
        "least_available": 5002, "throttled_seconds": 0, "peak_used_mib": [19], "used_first_mib": [12],
        "used_last_mib": [19], "watts_mean": [68.75], "utilisation_mean": [99],
        "sm_mhz_min": [1991], "sm_mhz_median": [1994.5],
        "sm_share_min": [1991 / 1994.5], "celsius_max": [49], "processes_max": [1],
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(window, name) == pytest.approx(value), name
    assert window.throttle == [["gpu_idle"]]
    json.dumps(dataclasses.asdict(window))


def test_energy_between_two_readings_follows_the_power(tmp_path: Path) -> None:
    def seldom(i: int, row: dict[str, Any]) -> None:
        if i % 10:
            row["millijoules"] = [None]

    assert series(tmp_path).window(1.5, 9.5).energy_j == [pytest.approx(575, rel=0.01)]
    assert series(tmp_path, seldom).window(1.5, 9.5).energy_j == [pytest.approx(575, rel=0.02)]
    for i in range(1, 10):  # never more than what the counter says
        assert series(tmp_path, seldom).window(0, i).energy_j[0] < 750  # type: ignore[operator]
    assert series(tmp_path, seldom).window(0, 10).energy_j == [pytest.approx(750)]
    assert series(tmp_path).window(5, 11).energy_j == [None]  # the rows end before it
    without = series(tmp_path, lambda i, row: row.update(watts=[None]))
    assert without.window(6.5, 8.5).energy_j == [pytest.approx(100)]


@pytest.mark.parametrize("counter", [None, 7])
def test_energy_of_a_counter_that_is_not_there_or_stands_still(tmp_path: Path, counter: int | None) -> None:
    assert series(tmp_path, lambda i, row: row.update(millijoules=[counter])).window(1, 9).energy_j == [None]


def test_missing_fields_are_none(tmp_path: Path) -> None:
    def lacking(i: int, row: dict[str, Any]) -> None:
        row.update({name: [None] for name, value in row.items() if isinstance(value, list)})
        row.update(busy=None, total=None, light=None)
        del row["throttled"]

    window = series(tmp_path, lacking).window(1, 9)
    assert window.own_cores == pytest.approx(2)
    for name in ("host_cores", "host_cpus", "foreign_cores", "light_cores", "throttled_seconds"):
        assert getattr(window, name) is None, name
    for name in ("peak_used_mib", "energy_j", "watts_mean", "sm_mhz_min", "sm_share_min", "celsius_max"):
        assert getattr(window, name) == [None], name
    assert window.throttle == [[]]
    assert load_certificate(window, 4).ok is None
    assert gpu_certificate(window, [0]).ok


def test_gap_and_windows_that_rows_do_not_cover(tmp_path: Path) -> None:
    found = series(tmp_path)
    assert found.window(5.2, 30).gap == 20
    assert found.window(5.2, 30).own_cores == pytest.approx(2)
    between = found.window(5.2, 5.7)
    assert (between.samples, between.peak_rss, between.own_cores) == (0, None, pytest.approx(2))
    assert found.window(20, 30).own_cores is None


def test_says_how_the_series_ended(tmp_path: Path) -> None:
    assert series(tmp_path, tail="").problem == "the sampler died after 11 rows: it was killed"
    assert series(tmp_path, tail='{"t": 11.0, "own').problem == "the sampler died after 11 rows: it was killed"
    dead = series(tmp_path, tail="Traceback\n  File\nOSError: no space\n")
    assert dead.problem == "the sampler died after 11 rows: OSError: no space"
    assert dead.window(1, 9).samples == 9
    assert series(tmp_path, lambda i, row: row.update({"end": "stopped"} if i == 10 else {}), tail="").problem == ""


def test_an_empty_series_and_a_gzipped_one(tmp_path: Path) -> None:
    empty = series(tmp_path, count=0, tail="")
    assert "after 0 rows" in empty.problem
    window = empty.window(1, 9)
    assert (window.samples, window.gap, window.own_cores, window.throttle) == (0, 8, None, [])
    assert load_certificate(window, 4).ok is None
    assert gpu_certificate(window, [0]).ok is False
    packed = tmp_path / "series.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"t": 1.0}\n{"t": 2.0, "end": "stopped"}\n'))
    assert list(Series.load(packed).columns["t"]) == [1, 2]


def gpus(folder: Path, throttle: int = 0, slow: float = 1.0, utilisation: float = 99) -> Window:
    def change(i: int, row: dict[str, Any]) -> None:
        now = i == 15
        row["throttle"] = [throttle if i == 17 else 0]  # shown late
        row["sm_mhz"] = [2000 * slow if now else 2000]
        row["utilisation"] = [utilisation]

    return series(folder, change, count=31).window(1, 29)


@pytest.mark.parametrize(
    ("bits", "name"), [(0x8, "hw_slowdown"), (0x20, "sw_thermal"), (0x40, "hw_thermal"), (0x80, "hw_power_brake")]
)
def test_throttling_breaks_the_certificate(tmp_path: Path, bits: int, name: str) -> None:
    certificate = gpu_certificate(gpus(tmp_path, bits | 0x100), [10])
    assert certificate.ok is False
    assert certificate.reason == f"GPU 0 was throttled: {name}"


def test_gpu_certificate(tmp_path: Path) -> None:
    good = gpu_certificate(gpus(tmp_path), [1024])
    assert (good.ok, good.figure) == (True, 1)
    assert good.reason == "at most 1024 MiB before the launch, never below 100% of the median SM clock"
    capped = gpu_certificate(gpus(tmp_path, 0x4, slow=0.5), [0])
    assert (capped.ok, capped.figure) == (True, 1)
    assert capped.reason.endswith("; sw_power_cap was seen")
    shared = gpu_certificate(gpus(tmp_path), [0, 1025])
    assert (shared.ok, shared.reason) == (False, "GPU 1 held 1025 MiB before the launch")
    slow = gpu_certificate(gpus(tmp_path, slow=0.79), [0])
    assert (slow.ok, slow.figure) == (False, 0.79)
    assert slow.reason == "GPU 0 fell to 79% of its median SM clock while busy"
    idle = gpu_certificate(gpus(tmp_path, slow=0.2, utilisation=50), [0])
    assert (idle.ok, idle.figure) == (True, 0)
    assert "no GPU busy" in idle.reason


def host(**changes: Any) -> Window:
    found: dict[str, Any] = {field.name: None for field in dataclasses.fields(Window)} | {
        "throttle": [],
        "sm_share_min": [],
    }
    found |= {"seconds": 10.0, "own_cores": 2.0, "host_cores": 2.1, "host_cpus": 4.0, "foreign_cores": 0.1}
    return Window(**found | changes)


def test_no_gpu_is_not_applicable() -> None:
    assert gpu_certificate(host(), []).ok is None
    assert gpu_certificate(host(), []).reason == "no GPU"


@pytest.mark.parametrize(
    ("changes", "cores", "ok", "reason"),
    [
        ({}, 4, True, "others used 0.10 cores of 4, at most 0.40 pass"),
        ({"foreign_cores": 0.41}, 4, False, "others used 0.41 cores of 4"),
        ({"foreign_cores": 0.24, "host_cpus": 1.0}, 1, True, "at most 0.25 pass"),
        ({"throttled_seconds": 0.09}, 4, True, "others"),
        ({"throttled_seconds": 0.11}, 4, False, "the cgroup was throttled for 0.11 of 10.00 s"),
        ({"host_cores": None}, 4, None, "no CPU times"),
        ({"host_cpus": 0.0}, 4, None, "/proc/stat does not advance"),
        ({"host_cpus": 64.0}, 4, None, "/proc/stat counts 64.0 CPUs, more than the 4"),
        ({"host_cores": 1.0, "foreign_cores": 0.0}, 4, None, "less than our own 2.00"),
    ],
)
def test_load_certificate(changes: dict[str, Any], cores: int, ok: bool | None, reason: str) -> None:
    certificate = load_certificate(host(**changes), cores)
    assert certificate.ok is ok
    assert reason in certificate.reason
    assert certificate.figure == pytest.approx(changes.get("foreign_cores", 0.1))

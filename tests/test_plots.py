"""Plots as figures, and as SVG: what is in them, and the same bytes from the same records."""

import re
import xml.etree.ElementTree as ET
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import pytest

from harness import draw, evidence, plots, standings, store
from harness.evidence import Evidence
from harness.plots import Plot, Point, Series
from harness.record import Certificate, Commit
from harness.standings import Standing
from tests import synthetic
from tests.factory import START, launch, record


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Standing]]:
    root = tmp_path_factory.mktemp("results")
    synthetic.write(synthetic.records(800), root)
    found = standings.standings(evidence.read(root))
    return {key: list(group) for key, group in groupby(found, lambda s: (s.key.machine, s.key.scenario))}


def test_throughput_by_concurrency(shown: dict[tuple[str, str], list[Standing]]) -> None:
    (plot,) = plots.of_scenario(shown["synthetic-2-gpus", "single_turn"])["throughput-Qwen2.5-0.5B"]
    assert [(line.name, [point.x for point in line.points]) for line in plot.series] == [
        ("SGLang", [16, 128, 512]),
        ("vLLM", [16, 128, 512]),
    ]
    point = plot.series[0].points[0]
    assert point.low is not None
    assert point.low < point.y < (point.high or 0)
    assert point.record.startswith("synthetic-2-gpus/single_turn/0.5B-16/sglang-")


def test_latency_against_rate(shown: dict[tuple[str, str], list[Standing]]) -> None:
    found = plots.of_scenario(shown["synthetic-2-gpus", "single_turn"])["latency-Qwen2.5-7B"]
    assert [plot.y for plot in found] == ["TTFT, s", "latency, s"]
    assert [line.name for line in found[0].series] == ["SGLang fixed", "SGLang poisson", "vLLM fixed", "vLLM poisson"]


def test_several_rates_are_one_line_with_intervals(tmp_path: Path) -> None:
    for rate in (4, 16, 8):
        params = {"model": "m", "prompts": 32, "rate": rate, "arrivals": "poisson"}
        store.save(record(case=f"single_turn/tiny-poisson-{rate}", params=params), tmp_path)
    found = plots.of_scenario(list(standings.standings(evidence.read(tmp_path))))["latency-m"]
    (line,) = found[0].series
    assert ([point.x for point in line.points], found[0].log) == ([4, 8, 16], True)
    assert all(point.low and point.low < point.y < (point.high or 0) for point in line.points)


def test_syncs_against_bytes_have_their_floor(shown: dict[tuple[str, str], list[Standing]]) -> None:
    sglang, vllm = plots.of_scenario(shown["synthetic-2-gpus", "weight_sync"])["sync-bytes"]
    assert (sglang.title.endswith("SGLang"), vllm.title.endswith("vLLM")) == (True, True)
    floor = sglang.series[-1]
    assert (floor.dashed, floor.points[0].x) == (True, 1e9)
    assert {"ipc", "nccl", "shm-host"} <= {line.name for line in sglang.series}
    assert all(p.y > f.y for p, f in zip(sglang.series[0].points, floor.points, strict=False))


def test_parts_of_a_sync_lie_on_each_other(shown: dict[tuple[str, str], list[Standing]]) -> None:
    found = plots.of_scenario(shown["synthetic-cpu", "weight_sync"])["sync-phases"]
    assert [plot.kind for plot in found] == ["stack"]
    sglang, vllm = found[0].ticks[:2]
    assert sglang.removesuffix(" · SGLang") == vllm.removesuffix(" · vLLM") != vllm
    assert [line.name for line in found[0].series][:2] == ["gather", "pack"]


def test_memory_by_phase_of_sleep(shown: dict[tuple[str, str], list[Standing]]) -> None:
    half, seven = plots.of_scenario(shown["synthetic-2-gpus", "sleep_wake"])["sleep-memory"]
    assert half.kind == "bars"
    assert [line.name for line in seven.series] == ["memory asleep", "memory waking", "memory awake"]


def test_parts_of_a_step_and_what_they_take(shown: dict[tuple[str, str], list[Standing]]) -> None:
    found = plots.of_scenario(shown["synthetic-2-gpus", "rl_step"])
    assert [line.name for line in found["step-phases"][0].series][:2] == ["rollout", "sleep"]
    assert "0.5B-grpo · SGLang" in found["step-phases"][0].ticks
    assert [line.name for line in found["trainer-memory"][0].series][-1] == "optimiser"


def past(root: Path, hours: int) -> Evidence:
    for hour in range(hours):
        commit = Commit(id=f"{hour:08d}", tree="", dirty=False)
        store.save(record(started=START + timedelta(hours=hour), run=str(hour), commit=commit), root)
    return evidence.read(root)


def test_history_by_commit(tmp_path: Path) -> None:
    found = past(tmp_path, 3)
    (plot,) = plots.history(found, found.cases())
    assert list(plot.ticks) == ["0000000"] * 3
    assert [point.x for point in plot.series[0].points] == [0, 1, 2]
    assert plot.series[0].points[0].y == pytest.approx(100, rel=1e-3)


def test_one_record_has_no_history(tmp_path: Path) -> None:
    found = past(tmp_path, 1)
    assert plots.history(found, found.cases()) == []


def test_a_newest_record_without_figures_hides_no_history(tmp_path: Path) -> None:
    found = past(tmp_path, 2)
    wrong = {"load": Certificate(ok=False, figure=1, reason="others used half")}
    void = record(started=START + timedelta(hours=9), run="9", launches=[launch(1, 100.0, certificates=wrong)])
    store.save(void, tmp_path)
    (plot,) = plots.history(evidence.read(tmp_path), found.cases())
    assert len(plot.series[0].points) == 2


def test_history_shows_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "HISTORY", 2)
    found = past(tmp_path, 4)
    (plot,) = plots.history(found, found.cases())
    assert len(plot.ticks) == len(plot.series[0].points) == 2
    assert "000002" in plot.series[0].points[0].record or plot.series[0].points[0].record


LINES = Plot("a title", "x", "y", [Series("one", [Point(1, 2, 1.5, 2.5), Point(10, 3)], "vllm")], log=True)
STACK = Plot("parts", "", "s", [Series("a", [Point(0, 1)]), Series("b", [Point(0, 2)])], "stack", ["case · vLLM"])


def test_svg_is_the_same_each_time() -> None:
    for plot in (LINES, STACK):
        text = draw.svg([plot, plot])
        assert text == draw.svg([plot, plot])
        assert not re.search(r"<dc:date>|\d{4}-\d\d-\d\dT", text)
        assert draw.MADE in text
        ET.fromstring(text)


def test_a_part_has_one_colour_in_all_of_a_picture_and_stands_in_its_legend() -> None:
    def stack(*parts: str) -> Plot:
        series = [Series(part, [Point(0, 1 + number)]) for number, part in enumerate(parts)]
        return Plot("t", "", "s", series, "stack", ["place"], ["vllm"])

    text = draw.svg([stack("a", "b"), stack("b", "c")])
    assert [text.count(f"fill: {draw.OTHERS[number]}") for number in (1, 2, 3)] == [2, 3, 2]  # one each in the legend
    assert [text.count(f">{part}</text>") for part in "abc"] == [1, 1, 1]


def test_several_processes_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = draw.svgs([[LINES], [STACK]])
    monkeypatch.setattr(draw, "MANY", 1)
    assert draw.svgs([[LINES], [STACK]]) == alone


def test_hostile_names_are_text_in_a_picture() -> None:
    name = "<script>alert(1)</script> $\\frac{$ \u202e\x00" + "long " * 50
    text = draw.svg([Plot(name, name, name, [Series(name, [Point(1, 1)]), Series("b", [Point(1, 2)])])])
    ET.fromstring(text)
    assert "<script" not in text
    assert "\u202e" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize(
    ("value", "said"), [(16, "16"), (0.005, "0.005"), (20_000, "20k"), (988_065_536, "988.1M"), (1.4e11, "140G")]
)
def test_quantities_are_short(value: float, said: str) -> None:
    assert draw.quantity(value) == said


def test_a_level_at_zero_or_below_is_drawn() -> None:
    ET.fromstring(
        draw.svg([Plot("t", "x", "y", [Series("s", [Point(1, 0.0, -1.0, 1.0), Point(2, 1.0)], "vllm")], log=True)])
    )


def test_metrics_of_one_launch_have_no_interval(tmp_path: Path) -> None:
    store.save(record(params={"model": "m", "prompts": 4}, launches=[launch(1, 5)]), tmp_path)
    (standing,) = standings.standings(evidence.read(tmp_path))
    ((plot,),) = plots.of_scenario([standing]).values()
    assert plot.series[0].points[0] == Point(4, 5, None, None, standing.entries["vllm"].path)

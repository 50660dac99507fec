"""The page in a browser: filters, sorting, links, plots, keys, themes, a phone; hostile text stays text."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from harness.plots import PHASES

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"

INKED = """f => {
    const c = f.querySelector("canvas");
    return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v).length;
}"""
UNNAMED = """all => all.filter((e) => !(e.textContent || e.ariaLabel || e.labels?.[0]?.textContent || "").trim())
    .map((e) => e.outerHTML)"""
PHONE = pytest.mark.parametrize("tab", ["phone"], indirect=True)


def column(tab: Any, label: str) -> list[str]:
    return [text.strip() for text in tab.locator(f'#table td[data-label="{label}"]').all_inner_texts()]


def choose(tab: Any, label: str, value: str) -> None:
    tab.get_by_label(label, exact=True).select_option(value)


def test_it_opens_from_disk_and_shows_a_table(tab: Any) -> None:
    expect(tab.get_by_role("heading", name="rollbench")).to_be_visible()
    assert "cases on 4 machines" in tab.locator("#summary").inner_text()
    assert tab.locator("#table tbody tr").count() == 100
    assert tab.locator("#skipped li").inner_text().startswith("alien.json: not a record")


@pytest.mark.parametrize(
    ("label", "value", "shown"),
    [
        ("Machine", "synthetic-cpu", "Machine"),
        ("Model", "Qwen2.5-7B", "Model"),
        ("Metric", "sync_latency", "Metric"),
    ],
)
def test_a_filter_leaves_only_its_own(tab: Any, label: str, value: str, shown: str) -> None:
    choose(tab, label, value)
    assert set(column(tab, shown)) == {"sync" if value == "sync_latency" else value}


def test_scenario_and_case_together(tab: Any) -> None:
    choose(tab, "Scenario", "weight_sync")
    tab.get_by_label("Case").fill("IPC-Loader")
    cases = set(column(tab, "Case"))
    assert cases == {"weight_sync/0.5B-ipc-loader", "weight_sync/7B-ipc-loader"}
    assert re.fullmatch(r"\d+ rows, 4 cases", tab.locator("#state").inner_text())
    tab.get_by_label("Case").fill("no such case")
    expect(tab.get_by_text("Nothing fits these filters.")).to_be_visible()
    tab.get_by_role("button", name="Reset").click()
    assert tab.locator("#table tbody tr").count() == 100


def test_one_engine_alone_has_no_ratio(tab: Any) -> None:
    choose(tab, "Engine", "vllm")
    heads = [head.strip() for head in tab.locator("#table thead th").all_inner_texts()]
    assert "vLLM" in heads
    assert not {"SGLang", "vLLM / SGLang", "Verdict"} & set(heads)


def test_numbers_sort_as_numbers_both_ways(tab: Any) -> None:
    choose(tab, "Machine", "synthetic-2-gpus")
    choose(tab, "Metric", "output_throughput")
    head = tab.get_by_role("columnheader", name="SGLang", exact=True)
    head.get_by_role("button").click()
    values = [float(text.split(" tok/s")[0].replace(",", "")) for text in column(tab, "SGLang")]
    assert values == sorted(values)
    assert len(set(values)) > 20
    expect(tab.locator('#table th[aria-sort="ascending"]')).to_have_text("SGLang ▲")
    tab.keyboard.press("Enter")  # the button kept the focus
    values = [float(text.split(" tok/s")[0].replace(",", "")) for text in column(tab, "SGLang")]
    assert values == sorted(values, reverse=True)


def test_what_has_no_value_comes_last(tab: Any) -> None:
    choose(tab, "Metric", "output_throughput")
    tab.get_by_label("Case").fill("single_turn/tiny-16")
    for _ in range(2):
        tab.get_by_role("columnheader", name="SGLang", exact=True).get_by_role("button").click()
        assert column(tab, "SGLang")[-1] == "invalid"


def test_names_sort_with_their_numbers(tab: Any) -> None:
    choose(tab, "Scenario", "single_turn")
    tab.get_by_role("columnheader", name="Case").get_by_role("button").click()
    cases = list(dict.fromkeys(text for text in column(tab, "Case") if re.fullmatch(r"single_turn/0.5B-\d+", text)))
    assert cases == ["single_turn/0.5B-16", "single_turn/0.5B-128", "single_turn/0.5B-512"]


def test_more_rows(tab: Any) -> None:
    tab.get_by_role("button", name="More rows").click()
    assert tab.locator("#table tbody tr").count() == 200


def test_a_figure_opens_its_record_and_command(tab: Any) -> None:
    choose(tab, "Machine", "synthetic-2-gpus")
    link = tab.locator('#table td[data-label="vLLM"] a').first
    link.click()
    dialog = tab.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=re.compile("on vllm"))).to_be_visible()
    text = dialog.inner_text()
    case = column(tab, "Case")[0]
    assert re.search(rf"git checkout \w{{40}}\s+rollbench run {re.escape(case)} -e vllm --launches 3", text)
    assert "synthetic-2-gpus/single_turn" in text
    assert "launch 3" in text
    tab.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    assert "record=" not in tab.url


def test_a_ratio_leads_to_both_records(tab: Any) -> None:
    choose(tab, "Machine", "synthetic-2-gpus")
    tab.locator('#table td[data-label="vLLM / SGLang"] a').first.click()
    dialog = tab.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=re.compile("on vllm"))).to_be_visible()
    dialog.get_by_role("link", name="SGLang").click()
    expect(dialog.get_by_role("heading", name=re.compile("on sglang"))).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).not_to_be_visible()


def test_every_figure_shown_has_a_record(tab: Any, site: Path) -> None:
    choose(tab, "Metric", "*")
    links = tab.locator("#table a.figure").evaluate_all("all => all.map((a) => a.href)")
    assert len(links) > 200
    ids = {re.search(r"record=(\w+)", link)[1] for link in links}  # type: ignore[index]
    assert all((site / "records" / f"{found}.js").is_file() for found in ids)


def test_a_saved_record_is_the_record(tab: Any) -> None:
    choose(tab, "Machine", "synthetic-cpu")
    tab.locator("#table a.figure").first.click()
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Save the record").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert saved["machine"]["id"] == "synthetic-cpu"
    assert re.fullmatch(r"sglang-\d+T\d+Z-\w{8}\.json", download.value.suggested_filename)


def test_a_record_that_is_gone_is_said(browser: Any, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "records")
    opened = browser.new_page()
    opened.goto((tmp_path / "copy" / "index.html").as_uri())
    opened.locator("#table a.figure").first.click()
    expect(opened.get_by_role("dialog").get_by_text("its file is gone")).to_be_visible()
    opened.close()


def test_an_address_can_be_sent_on(tab: Any, browser: Any) -> None:
    choose(tab, "Scenario", "sleep_wake")
    tab.get_by_role("columnheader", name="vLLM", exact=True).get_by_role("button").click()
    tab.locator("#table a.figure").first.click()
    other = browser.new_page()
    other.goto(tab.url)
    expect(other.get_by_role("dialog").get_by_role("heading", name=re.compile("sleep_wake"))).to_be_visible()
    other.keyboard.press("Escape")
    assert column(other, "vLLM") == column(tab, "vLLM")
    assert other.get_by_label("Scenario").input_value() == "sleep_wake"
    other.close()


def test_hostile_text_is_shown_as_text(tab: Any) -> None:
    tab.get_by_label("Case").fill("window.hit")
    assert "<script>window.hit=1<script>" in column(tab, "Case")[0]
    assert "\u202e" not in tab.locator("body").inner_text()
    assert "\ufffdgnol" in column(tab, "Case")[0]
    tab.locator("#table a.figure").first.click()
    dialog = tab.get_by_role("dialog")
    expect(dialog.get_by_text("<img src=x onerror=window.hit=1>").first).to_be_visible()
    assert tab.locator("img, #table script, dialog script, iframe").count() == 0
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.keyboard.press("Escape")
    tab.get_by_label("Case").fill("single_turn/tiny-16")
    tab.locator("#table a.figure", has_text="invalid").first.click()
    expect(dialog.get_by_text("cache: 5 tokens <script>").first).to_be_visible()


def plot(tab: Any, scenario: str, title: str) -> Any:
    """A figure, in sight and drawn."""
    choose(tab, "Machine", "synthetic-2-gpus")
    choose(tab, "Scenario", scenario)
    figure = tab.locator("figure", has_text=title).first
    figure.scroll_into_view_if_needed()
    expect(figure.locator("canvas")).to_be_visible()
    return figure


def scales(figure: Any) -> dict[str, Any]:
    return figure.evaluate(
        "f => ({x: [f.chart.scales.x.min, f.chart.scales.x.max], y: [f.chart.scales.y.min, f.chart.scales.y.max]})"
    )  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("scenario", "title"),
    [
        ("single_turn", "Throughput by concurrency"),
        ("single_turn", "TTFT against rate"),
        ("weight_sync", "Seconds of a sync against bytes: SGLang"),
        ("weight_sync", "Parts of a sync"),
        ("sleep_wake", "Device memory asleep"),
        ("rl_step", "Phases of a step"),
    ],
)
def test_plots_are_drawn(tab: Any, scenario: str, title: str) -> None:
    figure = plot(tab, scenario, title)
    assert figure.evaluate(INKED) > 5000
    expect(figure.locator("figcaption")).to_contain_text("synthetic-2-gpus")


def test_logarithmic_axes_have_round_ticks_and_the_places_there_are(tab: Any) -> None:
    figure = plot(tab, "single_turn", "Throughput by concurrency")
    labels = "f => f.chart.axes.map((axis) => axis._values)"
    assert figure.evaluate(labels) == [["16", "128", "512"], ["10k", "20k", "30k", "40k"]]
    for _ in range(3):
        figure.get_by_role("button", name="Zoom in").click()
    assert all(len(label.strip("k")) <= 4 for axis in figure.evaluate(labels) for label in axis)
    assert len(figure.evaluate(labels)[1]) > 2


def test_no_two_phases_look_alike(tab: Any) -> None:
    figure = plot(tab, "rl_step", "Phases of a step")
    paints = figure.locator(".swatch").evaluate_all("all => all.map((s) => s.style.background)")
    assert len(paints) == len(set(paints)) == len(PHASES["rl_step"][0].metrics)


def test_the_floor_is_in_the_plot_and_in_its_table(tab: Any) -> None:
    figure = plot(tab, "weight_sync", "Seconds of a sync against bytes: vLLM")
    figure.get_by_text("The same as a table").click()
    assert "floor: one plain copy" in figure.locator("details").inner_text()


def test_zoom_by_mouse_buttons_and_keys(tab: Any) -> None:
    figure = plot(tab, "single_turn", "Throughput by concurrency")
    whole = scales(figure)
    over = figure.locator(".u-over").bounding_box()
    tab.mouse.move(over["x"] + 100, over["y"] + 40)
    tab.mouse.down()
    tab.mouse.move(over["x"] + 260, over["y"] + 140, steps=5)
    tab.mouse.up()
    dragged = scales(figure)
    assert whole["x"][0] < dragged["x"][0] < dragged["x"][1] < whole["x"][1]
    expect(tab.get_by_role("dialog")).not_to_be_visible()  # a drag is no click
    figure.locator(".u-over").dblclick(position={"x": 300, "y": 150})
    assert scales(figure) == whole
    figure.get_by_role("button", name="Zoom in").click()
    closer = scales(figure)
    assert closer["x"][0] > whole["x"][0]
    figure.locator(".canvas").focus()
    tab.keyboard.press("+")
    assert scales(figure)["y"][1] < closer["y"][1]
    tab.keyboard.press("0")
    assert scales(figure) == whole


def test_a_plot_is_read_by_keys_alone(tab: Any) -> None:
    figure = plot(tab, "single_turn", "Throughput by concurrency")
    figure.locator(".canvas").focus()
    tab.keyboard.press("ArrowRight")
    expect(figure.get_by_role("status")).to_have_text(re.compile(r"^SGLang, 16 requests at once: .*tok/s$"))
    tab.keyboard.press("ArrowRight")
    expect(figure.get_by_role("status")).to_have_text(re.compile(r"^vLLM, 16 "))
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("dialog").get_by_role("heading", name="single_turn/0.5B-16 on vllm")).to_be_visible()


def test_a_point_opens_its_record(tab: Any) -> None:
    figure = plot(tab, "single_turn", "Throughput by concurrency")
    place = figure.evaluate("f => [f.chart.valToPos(128, 'x'), f.chart.valToPos(f.chart.data[1][1], 'y')]")
    figure.locator(".u-over").click(position={"x": place[0], "y": place[1]})
    expect(tab.get_by_role("dialog").get_by_role("heading", name="single_turn/0.5B-128 on sglang")).to_be_visible()


def test_a_line_can_be_hidden(tab: Any) -> None:
    figure = plot(tab, "single_turn", "Throughput by concurrency")
    key = figure.get_by_role("button", name="SGLang")
    key.click()
    expect(key).to_have_attribute("aria-pressed", "false")
    assert figure.evaluate("f => f.chart.series[1].show") is False


def test_an_engine_alone_in_plots_too(tab: Any) -> None:
    choose(tab, "Engine", "vllm")
    figure = plot(tab, "rl_step", "Phases of a step")
    ticks = figure.locator("details").evaluate(
        "d => [...d.querySelectorAll('td:nth-child(2)')].map((t) => t.textContent)"
    )
    assert ticks
    assert all("vLLM" in tick for tick in ticks)


def test_a_history_leads_to_old_records(tab: Any) -> None:
    tab.get_by_label("Case").fill("single_turn/tiny-16")
    figure = tab.locator("figure", has_text="history").filter(has_text="tiny-16").last
    figure.scroll_into_view_if_needed()
    figure.get_by_text("The same as a table").click()
    figure.locator("details button").first.click()
    expect(tab.get_by_role("dialog").get_by_role("heading", name=re.compile("tiny-16 on"))).to_be_visible()


def test_dark_and_light(tab: Any, browser: Any) -> None:
    ground = expect(tab.locator("body"))
    white, black = "rgb(255, 255, 255)", "rgb(20, 23, 27)"
    ground.to_have_css("background-color", white)
    tab.emulate_media(color_scheme="dark")
    ground.to_have_css("background-color", black)
    button = tab.get_by_role("button", name="Theme")
    button.click()
    expect(button).to_have_text("Theme: light")
    ground.to_have_css("background-color", white)
    button.click()
    ground.to_have_css("background-color", black)
    tab.reload()
    expect(button).to_have_text("Theme: dark")


@pytest.mark.parametrize("tab", ["wide", "phone"], indirect=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_against_it(tab: Any, scheme: str) -> None:
    """Roles, names, contrast, order: the page, its plots, a record."""
    tab.emulate_media(color_scheme=scheme)
    plot(tab, "weight_sync", "Seconds of a sync against bytes")
    violations(tab)
    tab.get_by_role("button", name="Reset").click()
    tab.locator("#table a.figure").first.click()
    expect(tab.get_by_role("dialog")).to_be_visible()
    violations(tab)


def violations(tab: Any) -> None:
    if not AXE.is_file():
        pytest.skip("no axe-core: npm ci --prefix tests/page")
    tab.evaluate(AXE.read_text(encoding="utf-8"))
    found = tab.evaluate("axe.run(document, {preload: false})")
    assert len(found["passes"]) > 20
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []


def test_keys_reach_everything_and_all_has_a_name(tab: Any) -> None:
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "results"
    assert tab.locator("button, select, input, a[href]").evaluate_all(UNNAMED) == []
    assert tab.evaluate("document.documentElement.lang") == "en"
    levels = tab.locator("h1, h2, h3").evaluate_all("all => all.map((h) => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@PHONE
def test_a_phone_shows_cards_that_fit(tab: Any) -> None:
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    expect(tab.get_by_label("Sort by")).to_be_visible()
    assert tab.locator("#table thead").bounding_box()["width"] <= 1
    assert tab.locator("#table tbody tr").first.bounding_box()["width"] <= 360
    choose(tab, "Metric", "output_throughput")
    choose(tab, "Sort by", "sglang")
    values = [float(t.split(" tok/s")[0].replace(",", "")) for t in column(tab, "SGLang") if "tok/s" in t]
    assert values == sorted(values)
    tab.locator("#table a.figure").first.click()
    box = tab.get_by_role("dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360


@PHONE
def test_hostile_text_fits_a_phone(tab: Any) -> None:
    tab.get_by_label("Case").fill("window.hit")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    figure = tab.locator("figure").first
    figure.scroll_into_view_if_needed()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360

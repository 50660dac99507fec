"""Plots as SVG, the same to the byte from the same figures: no dates, no random names."""

import io
import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

from harness.markdown import flat
from harness.plots import Plot, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MADE = "made by rollbench report"
MANY = 30  # pictures that several processes draw
STYLE: Any = {
    "svg.hashsalt": "rollbench", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e5e5e5",
    "axes.axisbelow": True, "figure.facecolor": "white", "axes.facecolor": "white", "text.parse_math": False,
    "axes.titlesize": 10, "axes.formatter.use_mathtext": False, "legend.frameon": False,
}  # fmt: skip
COLOURS = {"sglang": "#c2410c", "vllm": "#1d4ed8"}
OTHERS = ("#6b7280", "#0f766e", "#a21caf", "#a16207", "#15803d", "#be123c", "#4338ca", "#0369a1")
MARKERS, DASHES = "osD^vP*X", ("-", "-.", ":")
ACROSS, MOST = 3, 12  # plots beside each other, and in one picture
LONGEST = 60  # characters of a name


def svgs(figures: Sequence[Sequence[Plot]]) -> list[str]:
    """A picture of each; many are drawn by several processes."""
    if len(figures) < MANY:
        return list(map(svg, figures))
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), multiprocessing.get_context("forkserver")) as pool:
        return list(pool.map(svg, figures))


def svg(plots: Sequence[Plot]) -> str:
    """One picture of plots beside and below each other, at most MOST."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        from matplotlib.figure import Figure

        plots = plots[:MOST]
        across = 1 if plots[0].ticks and plots[0].kind != "lines" else min(len(plots), ACROSS)
        down = math.ceil(len(plots) / across)
        heights = [max(map(_height, plots[row * across : (row + 1) * across])) for row in range(down)]
        figure = Figure(figsize=((7.0, 5.2, 4.2)[across - 1] * across, sum(heights)))
        grid = {"height_ratios": heights, "hspace": 1.6 * down / sum(heights), "wspace": 0.3}
        axes = figure.subplots(down, across, squeeze=False, gridspec_kw=grid).flatten()
        parts = list(dict.fromkeys(series.name for plot in plots if plot.kind != "lines" for series in plot.series))
        for number, (ax, plot) in enumerate(zip(axes, plots, strict=False)):
            _draw(ax, plot, parts, legend=not number or plot.log)
        for ax in axes[len(plots) :]:
            ax.set_axis_off()
        out = io.StringIO()
        about = {"Title": flat(plots[0].title), "Description": MADE, "Date": None, "Creator": None}
        figure.savefig(out, format="svg", bbox_inches="tight", metadata=about)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _height(plot: Plot) -> float:
    """In inches."""
    if plot.kind == "lines":
        return 3.0 if plot.ticks else 4.2
    return 1.6 + 0.24 * len(plot.ticks) * (1 if plot.kind == "stack" else 1 + len(plot.series) / 3)


def _draw(ax: "Axes", plot: Plot, parts: Sequence[str], legend: bool) -> None:
    """`parts`: what bars of the whole picture are made of, with one legend and one colour each."""
    from matplotlib.patches import Patch

    ax.set_title(short(plot.title), loc="left")
    if plot.kind == "lines":
        _lines(ax, plot)
    else:
        _bars(ax, plot, parts)
    if not legend or max(len(plot.series), len(parts)) < 2:
        return
    if plot.kind == "lines" and len(plot.series) <= 4:
        ax.legend(fontsize=7)
    elif plot.kind == "lines":
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    else:
        handles = [Patch(label=short(name), **_fill(number)) for number, name in enumerate(parts)]
        ax.legend(handles=handles, fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))


def _lines(ax: "Axes", plot: Plot) -> None:
    ax.set_xlabel("" if plot.ticks else short(plot.x))
    ax.set_ylabel(short(plot.y))
    engines = {series.engine for series in plot.series} - {""}
    turns: dict[str, int] = {}
    for series in plot.series:
        turn = turns[series.engine] = turns.get(series.engine, -1) + 1
        own = OTHERS[0] if series.dashed else OTHERS[1 + turn % (len(OTHERS) - 1)]
        colour = own if len(engines) == 1 and turn + len(plot.series) > 3 else COLOURS.get(series.engine, own)
        style = "--" if series.dashed else DASHES[turn // len(MARKERS) % len(DASHES)]
        first = len(MARKERS) // 2 if series.engine == "vllm" and len(engines) > 1 else 0
        marker = "" if series.dashed else MARKERS[(first + turn) % len(MARKERS)]
        _line(ax, series, color=colour, linestyle=style, marker=marker)
    if plot.ticks:
        ax.set_xticks(range(len(plot.ticks)), [short(tick) for tick in plot.ticks], rotation=60, fontsize=7)
    elif not plot.log:
        ax.set_xticks(sorted({point.x for series in plot.series for point in series.points}))
    if plot.log:
        ax.set_xscale("log")
        ax.set_yscale("log")
        _plain_ticks(ax, plot)
    else:
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(lambda value, _: quantity(value))


def _plain_ticks(ax: "Axes", plot: Plot) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    form = FuncFormatter(lambda value, _: quantity(value))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(form)
        axis.set_minor_formatter(NullFormatter())
    places = sorted({point.x for series in plot.series for point in series.points})
    gap = 0.1 * math.log(places[-1] / places[0])
    apart = [x for i, x in enumerate(places) if not i or math.log(x / places[i - 1]) > gap]
    if len(apart) <= 8:
        ax.set_xticks(apart)


def quantity(value: float) -> str:
    """2M for 2,000,000, as axes say it."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.4g}"


def _line(ax: "Axes", series: Series, **style: Any) -> None:
    x, y = [p.x for p in series.points], [p.y for p in series.points]
    below = [p.y - (p.y if p.low is None else max(p.low, p.y * 1e-3)) for p in series.points]
    above = [(p.y if p.high is None else p.high) - p.y for p in series.points]
    drawn: Any = ax.errorbar(x, y, yerr=[below, above], label=short(series.name), capsize=3, markersize=5, **style)
    for bar in drawn[2]:
        bar.set_linestyle("-")


def _fill(number: int) -> dict[str, Any]:
    """Of a part; paler where the colours come round."""
    return {"color": OTHERS[(number + 1) % len(OTHERS)], "alpha": 1 if number < len(OTHERS) else 0.45}


def _bars(ax: "Axes", plot: Plot, parts: Sequence[str]) -> None:
    """Horizontal, the first place on top."""
    ends, stacked = [0.0] * len(plot.ticks), plot.kind == "stack"
    thick = 0.7 if stacked else 0.8 / len(plot.series)
    for number, series in enumerate(plot.series):
        aside = 0 if stacked else (number - (len(plot.series) - 1) / 2) * thick
        places, values = [int(point.x) for point in series.points], [point.y for point in series.points]
        ax.barh(
            [place + aside for place in places], values, thick, left=[ends[place] * stacked for place in places],
            **_fill(parts.index(series.name)),
        )  # fmt: skip
        for place, value in zip(places, values, strict=True):
            ends[place] += value
    ax.set_yticks(range(len(plot.ticks)), [short(tick) for tick in plot.ticks])
    ax.invert_yaxis()
    ax.set_xlabel(short(plot.y))


def short(text: str) -> str:
    text = flat(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"

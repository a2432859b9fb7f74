"""The pictures of a scaling study: what was measured, and what the model predicts.

matplotlib is imported when a figure is drawn, and without pyplot's global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from esam_tune.report.style import BLUE, DOT, DPI, GRID, INK, MUTED, TEXT, VERMILION, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito 2008; marker and line style carry the same distinction without colour.
LOOKS: tuple[Style, ...] = (
    {"color": INK, "marker": "o", "ls": "-"},
    {"color": VERMILION, "marker": "s", "ls": (0, (5, 2))},
    {"color": BLUE, "marker": "^", "ls": (0, (5, 1.5, 1, 1.5))},
)
IDEAL: Style = {"color": DOT, "lw": 1.6, "ls": (0, (1.5, 1.5)), "zorder": 1}
_DODGE = 0.035  # of the axis, so that intervals of methods at one count do not cover each other


def measured_figure(document: Mapping[str, Any]) -> Figure:
    """Speed-up and efficiency of every method against the worker count, with 95 % intervals.

    Args:
        document: of the study.
    """
    counts = document["workers"]
    figure, (left, right) = _figure(_title(document, "measured, with 95 % intervals"))
    left.plot(counts, counts, **IDEAL)
    right.plot(counts, [1.0] * len(counts), **IDEAL)
    for index, method in enumerate(document["methods"]):
        look = LOOKS[index]
        shift = counts[-1] ** (_DODGE * (index - (len(document["methods"]) - 1) / 2))
        for panel, key in ((left, "speed_up"), (right, "efficiency")):
            points = [(point["workers"], point[key]) for point in method["points"]]
            values = [estimate["value"] for _, estimate in points]
            ends = [
                [max(0.0, e["value"] - e["low"]) for _, e in points],
                [max(0.0, e["high"] - e["value"]) for _, e in points],
            ]
            panel.errorbar(
                [workers * shift for workers, _ in points],
                values,
                yerr=ends,
                ms=7,
                mec="white",
                mew=0.8,
                lw=1.4,
                elinewidth=1.4,
                capsize=3.5,
                zorder=3,
                **look,
            )
    _count_axis(left, counts)
    _count_axis(right, counts)
    left.set_yscale("log", base=2)
    _plain_ticks(left.yaxis, counts)
    low = min(e["low"] for m in document["methods"] for e in (p["speed_up"] for p in m["points"]))
    left.set_ylim(min(0.9, 0.95 * low), counts[-1] * 1.12)
    _share_axis(right, document["methods"], "points")
    left.set_title("speed-up over one worker", **_PANEL_TITLE)
    right.set_title("efficiency (speed-up a worker)", **_PANEL_TITLE)
    _legend(figure, document)
    return figure


def predicted_figure(document: Mapping[str, Any], network: str) -> Figure:
    """Efficiency and throughput up to the largest predicted count, with 95 % bands.

    What was measured lies on top where the network is the fitted one.

    Args:
        document: of the study.
        network: key of the predictions, ``fitted`` or ``described``.
    """
    figure, (left, right) = _figure(
        _title(document, f"predicted with 95 % bands, {_network(document, network)}")
    )
    predicted = [method["predictions"][network] for method in document["methods"]]
    counts = [point["workers"] for point in predicted[0]]
    left.plot(counts, [1.0] * len(counts), **IDEAL)
    for index, (method, points) in enumerate(zip(document["methods"], predicted, strict=True)):
        look = {**LOOKS[index]}
        marker = look.pop("marker")
        for panel, key in ((left, "efficiency"), (right, "images_per_second")):
            values = [point[key]["value"] for point in points]
            panel.fill_between(
                counts,
                [point[key]["low"] for point in points],
                [point[key]["high"] for point in points],
                color=look["color"],
                alpha=0.14,
                lw=0,
                zorder=2,
            )
            panel.plot(counts, values, lw=1.8, zorder=3, **look)
            if network == "fitted":
                panel.plot(
                    [point["workers"] for point in method["points"]],
                    [point[key]["value"] for point in method["points"]],
                    ls="",
                    marker=marker,
                    ms=7,
                    mfc=look["color"],
                    mec="white",
                    mew=0.8,
                    zorder=4,
                )
    for panel in (left, right):
        _count_axis(panel, counts)
    _share_axis(left, document["methods"], "predictions", network)
    right.set_yscale("log", base=10)
    left.set_title("efficiency (speed-up a worker)", **_PANEL_TITLE)
    right.set_title("throughput, images/s", **_PANEL_TITLE)
    _legend(figure, document, measured=network == "fitted")
    return figure


_PANEL_TITLE: Style = {"loc": "left", "fontsize": 10, "color": INK, "pad": 8}


def _figure(title: str) -> tuple[Figure, Sequence[Axes]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(TEXT):
        figure = Figure(figsize=(9.0, 4.4), dpi=DPI, facecolor="white")
        panels: list[Axes] = list(figure.subplots(1, 2))
    figure.subplots_adjust(left=0.07, right=0.975, top=0.75, bottom=0.13, wspace=0.18)
    text = figure.text(0.012, 0.955, title, va="center", fontsize=12, weight="bold", color=INK)
    text.set_parse_math(False)
    for panel in panels:
        panel.tick_params(length=0, pad=6, labelcolor=MUTED, labelsize=9.5)
        panel.tick_params(which="minor", length=0)
        panel.grid(color=GRID, linewidth=0.9)
        panel.set_axisbelow(True)
        panel.spines[:].set(visible=False, color=DOT)
        panel.spines["bottom"].set_visible(True)
    return figure, panels


def _title(document: Mapping[str, Any], what: str) -> str:
    task = document["settings"]["task"]
    return f"{document['mode'].capitalize()} scaling, {task['model']} on {task['dataset']}: {what}"


def _network(document: Mapping[str, Any], network: str) -> str:
    if network == "fitted":
        return "network as fitted"
    described = document["model"]["described_network"]
    latency = described["latency_seconds"] * 1e6
    bandwidth = described["bandwidth_bytes_per_second"] * 8e-9
    return f"{latency:.3g} µs and {bandwidth:.3g} Gbit/s"


def _count_axis(panel: Axes, counts: Sequence[int]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xlim(counts[0] / 1.12, counts[-1] * 1.12)
    # Every other doubling where all of them would run into each other.
    shown = counts if len(counts) <= 8 else [k for k in counts if log2(k) % 2 == 0]
    _plain_ticks(panel.xaxis, shown)
    panel.set_xlabel("workers", color=MUTED, fontsize=9.5)


def _plain_ticks(axis: Any, values: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _share_axis(
    panel: Axes, methods: Sequence[Mapping[str, Any]], part: str, network: str = ""
) -> None:
    """Efficiency from zero to a little above the highest interval."""
    from matplotlib.ticker import FuncFormatter

    highest = 1.0
    for method in methods:
        points = method[part][network] if network else method[part]
        highest = max([highest, *(point["efficiency"]["high"] for point in points)])
    panel.set_ylim(0, 1.06 * highest)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g} %"))


def _legend(figure: Figure, document: Mapping[str, Any], *, measured: bool = True) -> None:
    """One row between the title and the panels, where it cannot cover a point."""
    from matplotlib.lines import Line2D

    handles: list[Any] = []
    texts = []
    for look, method in zip(LOOKS, document["methods"], strict=False):
        shown = look if measured else {**look, "marker": ""}
        handles.append(Line2D([], [], lw=1.6, ms=7, mec="white", **shown))
        texts.append(shorten(method["label"], 44, placeholder=" …"))
    handles.append(Line2D([], [], **{k: v for k, v in IDEAL.items() if k != "zorder"}))
    texts.append("ideal")
    legend = figure.legend(
        handles, texts, ncols=len(texts), loc="center left", bbox_to_anchor=(0.008, 0.885),
        frameon=False, fontsize=9.5, handlelength=3.6, columnspacing=1.6,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)

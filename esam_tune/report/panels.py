"""Panels of plots, and how they become one picture or several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from textwrap import shorten
from typing import TYPE_CHECKING, Any, TypeAlias

from esam_tune.report.style import DPI, MUTED, TEXT, VERMILION, Style, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw: TypeAlias = "Callable[[Axes], None]"

PANEL_WIDTH, PANEL_HEIGHT = 4.4, 3.1  # inches; text keeps its size on a phone's screen
# What a baseline, or a second reading, is drawn with.
DARK: Style = {"ms": 8, "mfc": VERMILION, "mec": "white", "marker": "s", "ls": "", "mew": 0.8}


@dataclass(frozen=True)
class Plot:
    """A picture of one kind.

    Args:
        name: of its file.
        title: for the reader.
        panels: what draws each panel into axes.
    """

    name: str
    title: str
    panels: tuple[Draw, ...]


def grid_figure(plot: Plot, columns: int) -> Figure:
    """All panels in one picture, under the plot's title."""
    from matplotlib.figure import Figure

    columns = min(columns, len(plot.panels))
    rows = ceil(len(plot.panels) / columns)
    width, height = PANEL_WIDTH * columns, PANEL_HEIGHT * rows + 0.45
    if len(plot.panels) == 1:
        width, height = 1.6 * width, 1.3 * height
    with _style():
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
        title = figure.suptitle(plot.title, x=0.012, ha="left", size=13, weight="bold")
        title.set_parse_math(False)
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, draw in zip(grid, plot.panels, strict=False):
            draw(axes)
        for axes in grid[len(plot.panels) :]:
            axes.set_axis_off()
    return figure


def panel_figure(draw: Draw) -> Figure:
    """One panel as a picture of its own."""
    from matplotlib.figure import Figure

    with _style():
        size = (PANEL_WIDTH, PANEL_HEIGHT)
        figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
        draw(figure.subplots())
    return figure


def _style() -> Any:
    import matplotlib as mpl

    return mpl.rc_context(TEXT)


def titled(axes: Axes, title: str) -> None:
    """Set a panel's title, cut to its width and taken literally."""
    text = axes.set_title(shorten(title, 52, placeholder=" …"), loc="left", size=10, pad=8)
    text.set_parse_math(False)


def named(axes: Axes, x: str, y: str) -> None:
    """Name both axes."""
    axes.set_xlabel(x, color=MUTED, size=9.5)
    axes.set_ylabel(y, color=MUTED, size=9.5)


def formatted(axis: Any, metric: str, ticks: int = 5) -> None:
    """Give an axis a few round ticks in a metric's way."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: value_text(metric, value)))

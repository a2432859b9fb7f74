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

# Inches; text keeps its size on a phone's screen.
PANEL_WIDTH, PANEL_HEIGHT = 4.4, 3.1
_RIGHT, _TITLE = 0.2, 0.5
# What a baseline, or a second reading, is drawn with.
DARK: Style = {"ms": 8, "mfc": VERMILION, "mec": "white", "marker": "s", "ls": "", "mew": 0.8}


@dataclass(frozen=True)
class Plot:
    """A picture of one kind.

    Args:
        name: of its file.
        title: for the reader.
        panels: what draws each panel into axes.
        left: inches beside a panel's axes for what stands there.
        bottom: inches below them.
        top: inches above them.
        height: of a panel in inches, all included.
    """

    name: str
    title: str
    panels: tuple[Draw, ...]
    left: float = 0.8
    bottom: float = 0.58
    top: float = 0.38
    height: float = PANEL_HEIGHT


def grid_figure(plot: Plot, columns: int) -> Figure:
    """All panels in one picture, under the plot's title."""
    from matplotlib.figure import Figure

    columns = min(columns, len(plot.panels))
    rows = ceil(len(plot.panels) / columns)
    # One panel alone is drawn larger, as there is room for it.
    scale = 1.6 if len(plot.panels) == 1 else 1.0
    width, height = PANEL_WIDTH * columns * scale, plot.height * rows * scale**0.5
    with _style():
        figure = Figure(figsize=(width, height + _TITLE), dpi=DPI, facecolor="white")
        place = (0.18 / width, 1 - 0.28 / (height + _TITLE))
        title = figure.text(*place, plot.title, size=13, weight="bold", va="center")
        title.set_parse_math(False)
        for number, draw in enumerate(plot.panels):
            row, column = divmod(number, columns)
            corner = (column * width / columns, height - (row + 1) * height / rows)
            draw(_axes(figure, plot, corner, (width / columns, height / rows)))
    return figure


def panel_figure(plot: Plot, number: int) -> Figure:
    """One panel as a picture of its own."""
    from matplotlib.figure import Figure

    with _style():
        size = (PANEL_WIDTH, plot.height)
        figure = Figure(figsize=size, dpi=DPI, facecolor="white")
        plot.panels[number](_axes(figure, plot, (0.0, 0.0), size))
    return figure


def _axes(
    figure: Figure, plot: Plot, corner: tuple[float, float], size: tuple[float, float]
) -> Axes:
    """Axes in a part of a figure, given in inches, with the plot's margins around them."""
    width, height = figure.get_size_inches()
    left, bottom = corner[0] + plot.left, corner[1] + plot.bottom
    across, up = size[0] - plot.left - _RIGHT, size[1] - plot.bottom - plot.top
    return figure.add_axes((left / width, bottom / height, across / width, up / height))


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

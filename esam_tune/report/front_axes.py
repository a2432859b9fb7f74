"""The axes of the front's picture: how far they reach, where they break, what their ticks say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from esam_tune import metrics as keys
from esam_tune.report.panels import formatted
from esam_tune.report.style import MUTED, STRIP, Style, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from esam_tune.report.front import FrontPoint, Layout
    from esam_tune.report.labels import Panels

SLASHES: Style = {"ls": "", "marker": [(-1, -0.6), (1, 0.6)], "ms": 9, "mec": MUTED, "mew": 1.3}
# Of the trials' own span: how far intervals may widen an axis. Those of two seeds reach far.
_WIDEST = 0.5
# No axis goes on where no value can be: an interval by Student's t may.
_GREATEST = {keys.VAL_ACCURACY: 1.0}
# Differences below these are mostly noise and need no magnifying.
_LEAST_SPANS = {keys.VAL_ACCURACY: 0.02} | dict.fromkeys(keys.COST_METRICS, 0.2)


def add_panels(
    figure: Figure, drawn: Sequence[FrontPoint], layout: Layout, metrics: tuple[str, str]
) -> Panels:
    """The panel, and the strip below it if there is one, each with the trials it shows.

    Args:
        figure: that receives them.
        drawn: the trials that have a place.
        layout: of the figure.
        metrics: keys of what stands for accuracy and for cost.
    """
    accuracy, cost = metrics
    floor = _floor(drawn) if accuracy == keys.VAL_ACCURACY else -np.inf
    greatest = _GREATEST.get(accuracy, np.inf)
    groups = [[point for point in drawn if point.accuracy > floor]]
    groups += [[point for point in drawn if point.accuracy < floor]] * (floor > -np.inf)
    grid = figure.add_gridspec(len(groups), height_ratios=[4.2, 1][: len(groups)], hspace=0.07)
    left, right = 0.9 / layout.width, 1 - 0.18 / layout.width
    top, bottom = 1 - layout.top / layout.height, 0.644 / layout.height
    grid.update(left=left, right=right, top=top, bottom=bottom)
    axes: list[Axes] = [figure.add_subplot(grid[row, 0]) for row in range(len(groups))]
    costs = _reach([p.cost for p in drawn], [p.cost_interval for p in drawn if p.weighed])
    for panel, group, margin, ticks in zip(axes, groups, (0.09, 0.45), (7, 2), strict=False):
        panel.set_xlim(_limits(cost, costs, 0.07))
        # A trial shows in one panel only: neither may reach past the break.
        ends = (floor, greatest) if panel is axes[0] else (-np.inf, floor)
        levels = [point.accuracy for point in group]
        if panel is axes[0]:
            levels = _reach(levels, [p.accuracy_interval for p in group if p.weighed])
        panel.set_ylim(*np.clip(_limits(accuracy, levels, margin), *ends))
        plain_axes(panel)
        formatted(panel.xaxis, cost, layout.most_ticks)
        formatted(panel.yaxis, accuracy, ticks)
        last = panel is axes[-1]
        panel.tick_params(labelbottom=last)
        panel.spines["bottom"].set_visible(last)
    if len(axes) == 2:
        axes[1].set_facecolor(STRIP)
        axes[0].plot([0, 0], [0, -0.022], transform=axes[0].transAxes, clip_on=False, **SLASHES)
    return list(zip(axes, groups, strict=True))


def _floor(drawn: Sequence[FrontPoint]) -> float:
    """The accuracy, 0..1, under which trials go to the strip; minus infinity for one plain axis.

    A break pays where the gap is wide (0.4 of the span above it), no point of the search's own
    front is below, and most trials are above. Of such gaps the highest shows the front largest.
    """
    levels = np.sort([point.accuracy for point in drawn])
    searched = [point.accuracy for point in drawn if point.on_front and not point.baseline]
    for first in range(len(levels) - 3, 0, -1):
        low, high = levels[first - 1], levels[first]
        wide = high - low > 0.4 * max(levels[-1] - high, _LEAST_SPANS[keys.VAL_ACCURACY])
        if wide and high <= min(searched, default=levels[-1]) and first <= 0.4 * len(levels):
            return float(low + high) / 2
    return -np.inf


def _reach(values: Sequence[float], intervals: Sequence[tuple[float, float] | None]) -> list[float]:
    """The values, and how far intervals may widen an axis beyond them."""
    if not values:
        return []
    low, high = min(values), max(values)
    room = _WIDEST * (high - low)
    ends = [end for interval in intervals if interval is not None for end in interval]
    return [*values, *(min(max(end, low - room), high + room) for end in ends)]


def _limits(metric: str, values: Sequence[float], margin: float) -> tuple[float, float]:
    """The values' range, widened to the least span, with a margin that is a share of it."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    # Of a metric with no scale of its own: what the four digits of its ticks can tell apart.
    least_span = _LEAST_SPANS.get(metric, 0.01 * max(abs(low), abs(high)) or 1.0)
    half = max(high - low, least_span) * (0.5 + margin)
    return (low + high) / 2 - half, (low + high) / 2 + half

"""The picture of a study: accuracy against cost, the front, and what it is up against.

Accuracy stands for whatever objective is raised, cost for the one that is lowered.

matplotlib is imported when a figure is drawn, and without pyplot's global state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from math import ceil, isfinite
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from esam_tune import pareto_front
from esam_tune.report.front_axes import add_panels
from esam_tune.report.labels import Floats, add_labels
from esam_tune.report.style import (
    BASELINE,
    BLUE,
    DPI,
    FRONT_LINE,
    MUTED,
    ON_FRONT,
    PRUNED,
    RING,
    SEARCHED,
    TEXT,
    VERMILION,
    Style,
    axis_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

State: TypeAlias = Literal["complete", "pruned", "failed"]

BASELINE_SHAPES = ("s", "D", "^", "v", "p", "h", "<", ">")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How large a picture is, in inches, and what stands above it."""

    width: float
    height: float
    titled: bool
    legend_columns: int
    most_ticks: int

    @property
    def top(self) -> float:
        """What title and legend take, in inches."""
        rows = ceil(5 / self.legend_columns)
        return 0.84 if self.titled else 0.16 + 0.22 * rows


# 900 px wide; for a page that has a heading of its own; for a phone.
WIDE = Layout(width=9.0, height=5.6, titled=True, legend_columns=5, most_ticks=9)
UNTITLED = Layout(width=9.0, height=5.2, titled=False, legend_columns=5, most_ticks=9)
NARROW = Layout(width=4.3, height=5.4, titled=False, legend_columns=2, most_ticks=5)


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One trial as the picture shows it.

    Raises:
        ValueError: Unknown state, or a trial on the front without a final result.
    """

    trial_id: str
    label: str  # what it is, for the reader: "SAM rho=0.05"
    # In their metrics' units; NaN if the trial has none.
    accuracy: float
    cost: float
    baseline: bool  # one of the settings that the search is up against
    on_front: bool  # no other trial dominates it
    state: State  # "pruned" was stopped early, "failed" is never drawn
    # 95 % intervals of the means over the seeds; None with fewer than two.
    accuracy_interval: tuple[float, float] | None = None
    cost_interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn truthfully."""
        if self.state not in get_args(State):
            raise ValueError(f"state must be one of {get_args(State)}, got {self.state!r}")
        if self.on_front and not (self.state == "complete" and self.drawable):
            raise ValueError(f"on_front needs a complete trial with finite values, got {self}")

    @property
    def drawable(self) -> bool:
        """Whether the trial has a place in the picture."""
        return self.state != "failed" and isfinite(self.accuracy) and isfinite(self.cost)

    @property
    def weighed(self) -> bool:
        """Whether its intervals are drawn: those of all dots would hide the dots."""
        return self.on_front or self.baseline


def front_figure(
    points: Sequence[FrontPoint],
    *,
    accuracy_metric: str,
    cost_metric: str,
    title: str,
    chosen: str | None,
    layout: Layout = WIDE,
) -> Figure:
    """Accuracy against cost, with the front as a step line.

    Muted dots are search trials, labelled markers are baselines (filled if on the front), and the
    chosen trial is ringed. Where settings ran under several seeds, the front and the baselines have
    their 95 % intervals; one that reaches beyond the axes is cut there. Where what is raised is an
    accuracy indeed, a few trials far below the rest move to a strip under a broken axis, at their
    true accuracy, so that the differences along the front stay legible.

    Args:
        accuracy_metric: Key of the metric on the y axis, to be raised.
        cost_metric: Key of the metric on the x axis, to be lowered.
        chosen: ``trial_id`` of the trial to ring, or None.

    Raises:
        ValueError: ``chosen`` is not a trial that can be drawn.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn = [point for point in points if point.drawable]
    ringed = next((point for point in drawn if point.trial_id == chosen), None)
    if chosen is not None and ringed is None:
        raise ValueError(f"chosen must name a trial with a result or be None, got {chosen!r}")
    width, height = layout.width, layout.height
    with mpl.rc_context(TEXT):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        metrics = accuracy_metric, cost_metric
        panels = add_panels(figure, drawn, layout, metrics)
        styles, path = _styles(drawn), _front_path(drawn)
        for panel, group in panels:
            if len(path):
                costs, levels = np.append(path, [[panel.get_xlim()[1], path[-1, 1]]], axis=0).T
                panel.fill_between(
                    costs, levels, panel.get_ylim()[0], color=BLUE, alpha=0.06, linewidth=0
                )
                panel.plot(*path.T, zorder=2, **FRONT_LINE)
            for point in group:
                _draw_intervals(panel, point)
                for look in [styles[point]] + [RING] * (point is ringed):
                    panel.plot(point.cost, point.accuracy, clip_on=False, **look)
        middle: Style = {"color": MUTED, "ha": "center", "va": "center"}
        weighed = any(point.weighed and point.accuracy_interval for point in drawn)
        name = axis_name(accuracy_metric) + ", mean with 95 % interval" * weighed
        figure.text(0.18 / width, 0.52, name, rotation=90, **middle)
        figure.text(0.54, 0.168 / height, axis_name(cost_metric), **middle)
        if layout.titled:
            title = shorten(title, 85, placeholder=" …")
            place = (0.108 / width, 1 - 0.252 / height)
            figure.text(*place, title, size=13, weight="bold", va="center", parse_math=False)
        figure.text(0.54, 0.5, "" if drawn else "no trial has a result yet", ha="center")
        _add_legend(figure, styles, ringed, layout)
        add_labels(figure, panels, path, ringed, metrics)
    return figure


def _draw_intervals(panel: Axes, point: FrontPoint) -> None:
    """Bars of a point's intervals, cut at the panel's edges."""
    if not point.weighed:
        return
    look: Style = {"color": VERMILION if point.baseline else BLUE, "lw": 1.3, "alpha": 0.75}
    look |= {"zorder": 2.5, "marker": "", "solid_capstyle": "butt"}
    if point.accuracy_interval is not None:
        panel.plot([point.cost] * 2, point.accuracy_interval, **look)
    if point.cost_interval is not None:
        panel.plot(point.cost_interval, [point.accuracy] * 2, **look)


def front_line(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, accuracy) those that no other beats in these two, by cost.

    With more objectives than the picture has axes, the front has other members, too: a line through
    those would fall as cost grows.
    """
    places = sorted(points)
    costs = pareto_front.minimised(np.reshape(places, (-1, 2)), ("min", "max"))
    return [places[index] for index in np.flatnonzero(pareto_front.front(costs))]


def _front_path(drawn: Sequence[FrontPoint]) -> Floats:
    """Corners (k, 2) of the step line: the best accuracy to be had at each cost."""
    ends = front_line((point.cost, point.accuracy) for point in drawn if point.on_front)
    treads = [[before, (after[0], before[1])] for before, after in pairwise(ends)]
    return np.reshape([corner for tread in treads for corner in tread] + ends[-1:], (-1, 2))


def _styles(drawn: Sequence[FrontPoint]) -> dict[FrontPoint, Style]:
    shapes = cycle(BASELINE_SHAPES)
    styles = {}
    for point in drawn:
        style = ON_FRONT if point.on_front else PRUNED if point.state == "pruned" else SEARCHED
        if point.baseline:
            style = BASELINE | {"marker": next(shapes)}
            style |= {"mfc": VERMILION} if point.on_front else {}
        styles[point] = style | {"zorder": 3 + point.baseline + 2 * point.on_front}
    return styles


def _add_legend(
    figure: Figure, styles: dict[FrontPoint, Style], ringed: FrontPoint | None, layout: Layout
) -> None:
    """Between the title and the panels, where it cannot cover a point."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    plain = {point.state for point in styles if not (point.baseline or point.on_front)}
    name = f": {shorten(ringed.label, 36, placeholder=' …')}" if ringed else ""
    entries = [
        ([SEARCHED] * ("complete" in plain), "search trial"),
        ([PRUNED] * ("pruned" in plain), "stopped early"),
        ([ON_FRONT | FRONT_LINE] * any(point.on_front for point in styles), "Pareto front"),
        ([style for point, style in styles.items() if point.baseline][:2], "baselines"),
        ([RING | {"ms": 11}] * bool(ringed), f"chosen{name * (layout.legend_columns == 5)}"),
    ]
    handles: list[Any] = [tuple(Line2D([], [], **look) for look in looks) for looks, _ in entries]
    shown = [row for row in handles if row]
    rows = ceil(len(shown) / layout.legend_columns)
    middle = 0.56 if layout.titled else 0.06 + 0.11 * rows
    legend = figure.legend(
        shown, [text for looks, text in entries if looks], ncols=layout.legend_columns,
        loc="center left", bbox_to_anchor=(0.108 / layout.width, 1 - middle / layout.height),
        frameon=False, borderpad=0, fontsize=9.5, borderaxespad=0, handlelength=2.0,
        columnspacing=1.1, handler_map={tuple: HandlerTuple(ndivide=None, pad=0.2)},
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)

"""The picture of a study: accuracy against step cost, the front, and what it is up against.

matplotlib is imported when a figure is drawn, and without pyplot's global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise, product
from math import isfinite
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

State: TypeAlias = Literal["complete", "pruned", "failed"]
Floats: TypeAlias = NDArray[np.float64]
Style: TypeAlias = dict[str, Any]
Panels: TypeAlias = "list[tuple[Axes, list[FrontPoint]]]"

WIDTH_IN, HEIGHT_IN, DPI = 9.0, 5.6, 100  # 900 px wide; files hold twice the pixels
AXIS_NAMES = {
    "val_accuracy": "validation accuracy",
    "step_flops_ratio": "step cost over the base optimizer (counted FLOPs)",
    "step_time_ratio": "step cost over the base optimizer (measured time)",
}
# Okabe and Ito 2008, "Color universal design": told apart under every common colour blindness.
# Shape, fill and position carry the same distinctions, so the picture also works in grey.
BLUE, VERMILION, RUST = "#0072B2", "#D55E00", "#A34700"
TIMES = "\N{MULTIPLICATION SIGN}"
INK, MUTED, DOT, GRID, STRIP = "#1F2328", "#59636E", "#A3ABB4", "#E7EAED", "#F6F7F9"
TEXT: Style = {"font.family": "DejaVu Sans", "text.color": INK, "text.usetex": False}
TEXT |= {"font.size": 10, "svg.fonttype": "path", "svg.hashsalt": "esam-tune"}
SEARCHED: Style = {"ls": "", "marker": "o", "ms": 6.5, "mfc": DOT, "mec": "white", "mew": 0.8}
PRUNED: Style = SEARCHED | {"ms": 5, "mfc": "white", "mec": DOT}
ON_FRONT: Style = SEARCHED | {"ms": 9.5, "mfc": BLUE, "mew": 1.2}
FRONT_LINE: Style = {"ls": "-", "lw": 1.8, "color": BLUE}
BASELINE: Style = SEARCHED | {"ms": 8, "mfc": "white", "mec": VERMILION, "mew": 1.8}
BASELINE_SHAPES = ("s", "D", "^", "v", "p", "h", "<", ">")
RING: Style = SEARCHED | {"ms": 17, "mfc": "none", "mec": INK, "mew": 1.8, "zorder": 7}
SLASHES: Style = {"ls": "", "marker": [(-1, -0.6), (1, 0.6)], "ms": 9, "mec": MUTED, "mew": 1.3}


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One trial as the picture shows it.

    Raises:
        ValueError: Unknown state, or a trial on the front without a final result.
    """

    trial_id: str
    label: str  # what it is, for the reader: "SAM rho=0.05"
    accuracy: float  # 0..1; NaN if the trial has none
    cost: float  # in steps of the base optimizer; NaN if the trial has none
    baseline: bool  # one of the settings that the search is up against
    on_front: bool  # no other trial dominates it
    state: State  # "pruned" was stopped early, "failed" is never drawn

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


def front_figure(
    points: Sequence[FrontPoint],
    *,
    accuracy_metric: str,
    cost_metric: str,
    title: str,
    chosen: str | None,
) -> Figure:
    """Accuracy against step cost, with the front as a step line.

    Muted dots are search trials, labelled markers are baselines (filled if on the front), and the
    chosen trial is ringed. A few trials far below the rest move to a strip under a broken axis, at
    their true accuracy, so that the differences along the front stay legible.

    Args:
        accuracy_metric: Key of the metric on the y axis, 0..1, drawn in percent.
        cost_metric: Key of the metric on the x axis, in steps of the base optimizer.
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
    names = [AXIS_NAMES.get(m, m.replace("_", " ")) for m in (accuracy_metric, cost_metric)]
    with mpl.rc_context(TEXT):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI, facecolor="white")
        panels = _panels(figure, drawn)
        styles, path = _styles(drawn), _front_path(drawn)
        for panel, group in panels:
            if len(path):
                costs, levels = np.append(path, [[panel.get_xlim()[1], path[-1, 1]]], axis=0).T
                panel.fill_between(costs, levels, -1.0, color=BLUE, alpha=0.06, linewidth=0)
                panel.plot(*path.T, zorder=2, **FRONT_LINE)
            for point in group:
                for look in [styles[point]] + [RING] * (point is ringed):
                    panel.plot(point.cost, point.accuracy, clip_on=False, **look)
        figure.text(0.02, 0.52, names[0], color=MUTED, rotation=90, ha="center", va="center")
        figure.text(0.54, 0.03, names[1], color=MUTED, ha="center", va="center")
        title = shorten(title, 85, placeholder=" …")
        figure.text(0.012, 0.955, title, size=13, weight="bold", va="center", parse_math=False)
        figure.text(0.54, 0.5, "" if drawn else "no trial has a result yet", ha="center")
        _add_legend(figure, styles, ringed)
        _add_labels(figure, panels, path, ringed)
    return figure


def save_front(figure: Figure, path: str | Path) -> None:
    """Write the figure, at twice its size in pixels, in the format that the path's suffix names.

    Missing folders are made. The same figure gives the same bytes: no date is written.

    Raises:
        ValueError: The suffix is not ``.png``, ``.svg`` or ``.pdf``.
    """
    import matplotlib as mpl

    path = Path(path)
    undated: dict[str, Style] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    if path.suffix not in undated:
        raise ValueError(f"path must end in {', '.join(undated)}, got {str(path)!r}; rename it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(TEXT):
        figure.savefig(path, dpi=2 * DPI, metadata=undated[path.suffix])


def _floor(drawn: Sequence[FrontPoint]) -> float:
    """The accuracy under which trials go to the strip; minus infinity for one plain axis.

    A break pays where the gap is wide (0.4 of the span above it), no point of the search's own
    front is below, and most trials are above. Of such gaps the highest shows the front largest.
    """
    levels = np.sort([point.accuracy for point in drawn])
    searched = [point.accuracy for point in drawn if point.on_front and not point.baseline]
    for first in range(len(levels) - 3, 0, -1):
        low, high = levels[first - 1], levels[first]
        # Two points of accuracy: closer than that is mostly noise and needs no magnifying.
        wide = high - low > 0.4 * max(levels[-1] - high, 0.02)
        if wide and high <= min(searched, default=levels[-1]) and first <= 0.4 * len(levels):
            return float(low + high) / 2
    return -np.inf


def _panels(figure: Figure, drawn: Sequence[FrontPoint]) -> Panels:
    """The panel, and the strip below it if there is one, each with the trials it shows."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    floor = _floor(drawn)
    groups = [[point for point in drawn if point.accuracy > floor]]
    groups += [[point for point in drawn if point.accuracy < floor]] * (floor > -np.inf)
    grid = figure.add_gridspec(len(groups), height_ratios=[4.2, 1][: len(groups)], hspace=0.07)
    grid.update(left=0.1, right=0.98, top=0.85, bottom=0.115)
    axes: list[Axes] = [figure.add_subplot(grid[row, 0]) for row in range(len(groups))]
    for panel, group, margin, ticks in zip(axes, groups, (0.09, 0.45), (7, 2), strict=False):
        panel.set_xlim(_limits([point.cost for point in drawn], 0.2, 0.07))
        # A trial shows in one panel only: neither may reach past the break.
        ends = (floor, np.inf) if panel is axes[0] else (-np.inf, floor)
        panel.set_ylim(*np.clip(_limits([p.accuracy for p in group], 0.02, margin), *ends))
        panel.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:.4g}{TIMES}"))
        panel.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g} %"))
        last = panel is axes[-1]
        panel.tick_params(length=0, pad=6, labelcolor=MUTED, labelsize=9.5, labelbottom=last)
        panel.grid(color=GRID, linewidth=0.9)
        panel.spines[:].set(visible=False, color=DOT)
        panel.spines["bottom"].set_visible(last)
    if len(axes) == 2:
        axes[1].set_facecolor(STRIP)
        axes[0].plot([0, 0], [0, -0.022], transform=axes[0].transAxes, clip_on=False, **SLASHES)
    return list(zip(axes, groups, strict=True))


def _limits(values: Sequence[float], least_span: float, margin: float) -> tuple[float, float]:
    """The values' range, widened to the least span, with a margin that is a share of it."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    half = max(high - low, least_span) * (0.5 + margin)
    return (low + high) / 2 - half, (low + high) / 2 + half


def _front_path(drawn: Sequence[FrontPoint]) -> Floats:
    """Corners (k, 2) of the step line: the best accuracy to be had at each cost."""
    ends = sorted((point.cost, point.accuracy) for point in drawn if point.on_front)
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


def _add_legend(figure: Figure, styles: dict[FrontPoint, Style], ringed: FrontPoint | None) -> None:
    """One row between the title and the panels, where it cannot cover a point."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    plain = {point.state for point in styles if not (point.baseline or point.on_front)}
    name = shorten(ringed.label, 40, placeholder=" …") if ringed else ""
    entries = [
        ([SEARCHED] * ("complete" in plain), "search trial"),
        ([PRUNED] * ("pruned" in plain), "stopped early"),
        ([ON_FRONT | FRONT_LINE] * any(point.on_front for point in styles), "Pareto front"),
        ([style for point, style in styles.items() if point.baseline][:2], "baselines"),
        ([RING | {"ms": 11}] * bool(ringed), f"chosen: {name}"),
    ]
    handles: list[Any] = [tuple(Line2D([], [], **look) for look in looks) for looks, _ in entries]
    legend = figure.legend(
        [row for row in handles if row], [text for looks, text in entries if looks], ncols=5,
        loc="center left", bbox_to_anchor=(0.012, 0.9), frameon=False, borderpad=0, fontsize=9.5,
        borderaxespad=0, handlelength=2.3, columnspacing=1.8,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.2)},
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _add_labels(figure: Figure, panels: Panels, path: Floats, ringed: FrontPoint | None) -> None:
    """Name the chosen point and the baselines, each where it hides the least."""
    from matplotlib.lines import Line2D

    share = figure.transFigure.inverted().transform
    for panel, group in panels:
        corners = panel.transData.transform(path)
        spots = {p: panel.transData.transform((p.cost, p.accuracy)) for p in group}
        # x0, y0, x1, y1 in pixels, and what a square pixel of overlap costs; inside is a gain.
        taken = [[*panel.bbox.extents, -50.0]]
        taken += [[*(spot - 7), *(spot + 7), 20.0] for spot in spots.values()]
        taken += [[*(np.fmin(a, b) - 2), *(np.fmax(a, b) + 2), 5.0] for a, b in pairwise(corners)]
        named = {point for point in group if point.baseline or point is ringed}
        # The chosen point first, then from the top down.
        for point in sorted(named, key=lambda p: (p is not ringed, -p.accuracy, p.trial_id)):
            look: Style = {"color": INK, "weight": "bold"} if point is ringed else {"color": RUST}
            before = f"{shorten(point.label, 36, placeholder=' …')}  " if point.baseline else ""
            after = "" if point.baseline else f" at {point.cost:.2f}{TIMES}"
            words = f"{before}{100 * point.accuracy:.1f} %{after}"
            text = figure.text(0, 0, words, ha="center", va="center", size=9.5, **look)
            text.set_parse_math(False)
            half = np.array(text.get_window_extent().size) / 2
            spot, radius = spots[point], 13.0 if point is ringed else 9.0
            box = _clear_place(spot, half, radius, np.array(taken))
            taken.append([*box, 100.0])
            text.set_position(tuple(share((box[:2] + box[2:]) / 2)))
            leader = np.clip(spot, box[:2], box[2:]) - spot
            if (away := np.hypot(*leader)) > radius + 10:
                ends = share([spot + leader * radius / away, spot + leader])
                figure.add_artist(Line2D(*ends.T, transform=figure.transFigure, color=DOT, lw=1))


def _clear_place(spot: Floats, half: Floats, radius: float, taken: Floats) -> Floats:
    """The box (4,) of a label of half size (2,) beside its marker, in pixels.

    Of the rows around the marker, to its right, to its left or centred: the nearest that is inside
    the panel and clear of earlier labels, markers and the front's line, or else the least bad.
    """
    step = np.array([half[0] + radius + 4, half[1] + max(half[1], radius) + 2])
    around = np.concatenate([-half, half])
    places: list[tuple[float, Floats]] = []
    for row, side in product((0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 7, -7), (1, -1, 0, 3, -3)):
        box = np.tile(spot + step * (side, row), 2) + around
        away = 10 * abs(row) + 20 * (abs(side) > 1)
        places.append((away + float(_shared_areas(box, taken) @ taken[:, 4]), box))
    return min(places, key=lambda place: place[0])[1]


def _shared_areas(box: Floats, others: Floats) -> Floats:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:4])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=1))

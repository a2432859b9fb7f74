"""Names of points in a picture, each where it hides the least."""

from __future__ import annotations

from itertools import pairwise, product
from textwrap import shorten
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from esam_tune.report.style import DOT, INK, RUST, Style, point_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from esam_tune.report.front import FrontPoint

Floats: TypeAlias = NDArray[np.float64]
Panels: TypeAlias = "list[tuple[Axes, list[FrontPoint]]]"


def add_labels(
    figure: Figure,
    panels: Panels,
    path: Floats,
    ringed: FrontPoint | None,
    metrics: tuple[str, str],
) -> None:
    """Name the chosen point and the baselines.

    Args:
        figure: that holds the panels.
        panels: each with the points it shows.
        path: corners (k, 2) of the front's line in data units, which labels keep clear of.
        ringed: the chosen point, or None.
        metrics: keys of what stands for accuracy and for cost.
    """
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
            reached, paid = map(point_text, metrics, (point.accuracy, point.cost))
            words = f"{before}{reached}" + f" at {paid}" * (not point.baseline)
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

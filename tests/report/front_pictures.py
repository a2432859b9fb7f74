"""Points of a front, the picture of them, and what stands in it, for the tests of that picture."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from esam_tune.report.front import FrontPoint, front_figure


def trial(label: str, cost: float, accuracy: float, **changes: Any) -> FrontPoint:
    fields: dict[str, Any] = {"baseline": False, "on_front": False, "state": "complete"}
    fields |= {"trial_id": label, "label": label, "accuracy": accuracy, "cost": cost}
    return FrontPoint(**fields | changes)


def baseline(label: str, cost: float, accuracy: float, **changes: Any) -> FrontPoint:
    return trial(label, cost, accuracy, baseline=True, **changes)


def draw(points: list[FrontPoint], chosen: str | None = None, **changes: str) -> Figure:
    keys = {"accuracy_metric": "val_accuracy", "cost_metric": "step_flops_ratio", "title": "digits"}
    return front_figure(points, **keys | changes, chosen=chosen)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def lines(figure: Figure) -> list[tuple[Any, list[tuple[float, float]]]]:
    """Every line of every panel, with its corners in data units."""
    found: list[Any] = [line for axes in figure.axes for line in axes.lines]
    return [(line, [(float(x), float(y)) for x, y in line.get_xydata()]) for line in found]

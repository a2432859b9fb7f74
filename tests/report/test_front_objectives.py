"""The front's picture of objectives other than accuracy and step cost, and of more than two."""

from __future__ import annotations

import pytest
from front_pictures import baseline, draw, lines, trial, words
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from esam_tune.report.front import front_line
from esam_tune.report.style import BLUE


def ticks(figure: Figure) -> tuple[list[str], list[str]]:
    figure.draw_without_rendering()
    axes = figure.axes[-1]
    across, up = axes.get_xticklabels(), axes.get_yticklabels()
    return [tick.get_text() for tick in across], [tick.get_text() for tick in up]


def test_a_throughput_is_no_per_cent_and_seconds_are_no_multiples() -> None:
    levels = [(14.0, 9_000.0), (21.0, 12_000.0), (30.0, 14_000.0)]
    points = [trial(str(i), *place, on_front=True) for i, place in enumerate(levels)]
    pair = {"accuracy_metric": "images_per_second", "cost_metric": "epoch_seconds"}
    figure = draw([*points, baseline("SGD", 13.0, 8_123.4)], "1", **pair)
    across, up = ticks(figure)
    assert {"20", "30"} <= set(across)
    assert {"10000", "14000"} <= set(up)
    assert {"12000 at 21", "SGD  8123", "images per second", "epoch seconds"} <= set(words(figure))


@pytest.mark.parametrize(
    ("pair", "spans"),
    [
        (("val_accuracy", "sharpness"), (0.02, None)),
        (("images_per_second", "step_time_ratio"), (None, 0.2)),
        (("images_per_second", "sharpness"), (None, None)),
    ],
)
def test_only_accuracies_and_ratios_have_a_least_span(
    pair: tuple[str, str], spans: tuple[float | None, float | None]
) -> None:
    levels = [0.9500, 0.9600, 0.9650]
    points = [trial(str(i), 0.0100 + 0.0005 * i, level) for i, level in enumerate(levels)]
    (axes,) = draw(points, accuracy_metric=pair[0], cost_metric=pair[1]).axes
    reached = [high - low for low, high in (axes.get_ylim(), axes.get_xlim())]
    for found, least, own in zip(reached, spans, (0.015, 0.001), strict=True):
        expected = own if least is None else least
        assert expected < found < 1.3 * expected


@pytest.mark.parametrize(
    ("level", "cost"), [(1_234.5, 0.0), (98_765.0, 0.02), (0.0, -0.003), (3.0, 1e-6)]
)
def test_trials_all_alike_have_ticks_that_can_be_told_apart(level: float, cost: float) -> None:
    points = [trial(str(i), cost, level) for i in range(3)]
    figure = draw(points, accuracy_metric="images_per_second", cost_metric="sharpness")
    for texts in ticks(figure):
        assert len(texts) == len(set(texts)) >= 3
        assert not any("e+" in text for text in texts)


def test_the_axis_of_another_metric_never_breaks() -> None:
    levels = [0.062, 0.940, 0.950, 0.960, 0.970]
    points = [trial(str(i), 1 + 0.1 * i, level) for i, level in enumerate(levels)]
    assert len(draw(points, accuracy_metric="images_per_second").axes) == 1
    assert len(draw(points).axes) == 2


@pytest.mark.parametrize(("metric", "greatest"), [("val_accuracy", 1.0), ("sharpness", None)])
def test_an_interval_widens_no_axis_beyond_what_can_be(metric: str, greatest: float | None) -> None:
    reach = {"on_front": True, "accuracy_interval": (0.95, 1.03)}
    points = [trial(str(i), 1.0 + i, 0.97 + 0.02 * i, **reach) for i in range(2)]
    (axes,) = draw(points, accuracy_metric=metric).axes
    assert axes.get_ylim()[1] == greatest if greatest else axes.get_ylim()[1] > 1.0


def test_what_the_front_dominates_is_shaded_down_to_the_edge() -> None:
    """A margin below small throughputs reaches further down than any accuracy can lie."""
    levels = [100.0, 9_000.0]
    points = [trial(str(i), 1.0 + i, level, on_front=True) for i, level in enumerate(levels)]
    (axes,) = draw(points, accuracy_metric="images_per_second").axes
    (shade,) = axes.collections
    assert shade.get_paths()[0].get_extents().y0 == axes.get_ylim()[0] < -1.0


def test_the_line_leaves_out_what_is_on_the_front_for_an_objective_that_is_not_shown() -> None:
    flatter = trial("flatter", 1.42, 0.93, on_front=True)
    dearer = trial("dearer", 1.6, 0.951, on_front=True)
    shown = [trial("a", 1.34, 0.951, on_front=True), trial("b", 1.51, 0.971, on_front=True)]
    figure = draw([*shown, flatter, dearer])
    ((_, corners),) = [drawn for drawn in lines(figure) if len(drawn[1]) > 2]
    assert corners == [(1.34, 0.951), (1.51, 0.951), (1.51, 0.971)]
    blue = [at[0] for line, at in lines(figure) if line.get_markerfacecolor() == BLUE]
    assert {(1.42, 0.93), (1.6, 0.951)} < set(blue)


@given(st.lists(st.tuples(*[st.integers(0, 9).map(float)] * 2)))
def test_accuracy_rises_along_the_line_and_nothing_lies_above_it(
    points: list[tuple[float, float]],
) -> None:
    line = front_line(points)
    assert line == sorted(line)
    assert [level for _, level in line] == sorted(level for _, level in line)
    assert set(line) <= set(points)
    for cost, level in points:
        assert max(accuracy for price, accuracy in line if price <= cost) >= level

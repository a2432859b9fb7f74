"""The front's picture: what is drawn where, and that no label hides another."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from front_pictures import baseline, draw, lines, trial, words
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from esam_tune.report.front import NARROW, front_figure
from esam_tune.report.style import BLUE, INK, RING, RUST, TIMES, VERMILION, save_figure

NAN = float("nan")


BASELINES = [
    baseline("SGD", 1.0, 0.735, on_front=True),
    baseline("SAM rho=0.05", 2.0, 0.765),
    baseline("SAM rho=0.5", 2.0, 0.975, on_front=True),
    baseline("ASAM rho=1", 2.0, 0.90),
    baseline("authors' ESAM", 1.68, 0.86),
]
SEARCHED = [
    trial("esam a", 1.34, 0.951, on_front=True),
    trial("esam b", 1.51, 0.971, on_front=True),
    *(trial(f"esam {i}", 1.4 + 0.04 * i, 0.92 + 0.003 * i) for i in range(10)),
]
STUDY = BASELINES + SEARCHED


def markers(figure: Figure) -> list[tuple[float, float]]:
    """Places of the trials' markers."""
    alone = [(line, corners) for line, corners in lines(figure) if len(corners) == 1]
    return [corners[0] for line, corners in alone if line.get_markersize() != RING["ms"]]


def rings(figure: Figure) -> list[tuple[float, float]]:
    return [at[0] for line, at in lines(figure) if line.get_markersize() == RING["ms"]]


def label_boxes(figure: Figure) -> list[Any]:
    renderer = FigureCanvasAgg(figure).get_renderer()
    labels = [text for text in figure.texts if text.get_color() in (INK, RUST) and text.get_text()]
    return [text.get_window_extent(renderer) for text in labels]


# --- what is drawn ---------------------------------------------------------------------------


def test_every_trial_with_a_result_is_drawn_once_at_its_own_place() -> None:
    hidden = [
        trial("crashed", 1.2, 0.5, state="failed"),
        trial("no accuracy", 1.2, NAN),
        trial("no cost", float("inf"), 0.9),
    ]
    stopped = trial("stopped", 1.7, 0.91, state="pruned")
    drawn = markers(draw([*STUDY, *hidden, stopped]))
    assert sorted(drawn) == sorted((p.cost, p.accuracy) for p in [*STUDY, stopped])


def test_each_panel_shows_its_own_range_and_they_do_not_overlap() -> None:
    detail, strip = draw(STUDY).axes
    assert strip.get_ylim()[0] < 0.735 < 0.86 < strip.get_ylim()[1] <= detail.get_ylim()[0] < 0.9
    assert detail.get_xlim() == strip.get_xlim()
    for axes in (detail, strip):
        low, high = axes.get_ylim()
        alone: list[Any] = [line.get_xydata() for line in axes.lines]
        assert all(low <= xy[0, 1] <= high for xy in alone if len(xy) == 1)


@pytest.mark.parametrize(
    ("levels", "panels"),
    [
        pytest.param([0.95], 1, id="one trial"),
        pytest.param([0.10, 0.95], 1, id="two trials: nothing to magnify"),
        pytest.param([0.73, 0.95, 0.96, 0.97], 2, id="one far below"),
        pytest.param([0.10, 0.94, 0.95, 0.96, 0.97], 2, id="a diverged trial"),
        pytest.param([0.945, 0.95, 0.955, 0.96], 1, id="differences that are noise"),
        pytest.param([0.70, 0.75, 0.80, 0.85, 0.90, 0.95], 1, id="an even spread"),
        pytest.param([0.1, 0.1, 0.1, 0.95, 0.96, 0.97], 1, id="half of the trials are below"),
        pytest.param([0.95] * 5, 1, id="all equal"),
    ],
)
def test_axis_breaks_only_for_a_few_far_below(levels: list[float], panels: int) -> None:
    points = [trial(str(i), 1 + 0.1 * i, level) for i, level in enumerate(levels)]
    assert len(draw(points).axes) == panels


def test_axis_never_breaks_within_the_search_s_own_front() -> None:
    levels = [0.73, 0.95, 0.96, 0.97]
    points = [trial(str(i), 1 + 0.1 * i, a, on_front=True) for i, a in enumerate(levels)]
    assert len(draw(points).axes) == 1


def test_front_is_a_step_line_that_never_promises_more_than_was_found() -> None:
    ((line, corners),) = [drawn for drawn in lines(draw(SEARCHED)) if len(drawn[1]) > 2]
    assert corners == [(1.34, 0.951), (1.51, 0.951), (1.51, 0.971)]
    assert line.get_color() == BLUE


def test_baselines_have_shapes_of_their_own_and_are_filled_on_the_front() -> None:
    shown = [drawn for drawn in lines(draw(STUDY)) if drawn[0].get_markeredgecolor() == VERMILION]
    assert len({line.get_marker() for line, _ in shown}) == len(BASELINES)
    filled = {at[0][1] for line, at in shown if line.get_markerfacecolor() == VERMILION}
    assert filled == {0.735, 0.975}


def test_chosen_is_ringed_named_and_stated() -> None:
    figure = draw(STUDY, "esam a")
    assert rings(figure) == [(1.34, 0.951)]
    assert "95.1 % at 1.34\N{MULTIPLICATION SIGN}" in words(figure)
    assert "chosen: esam a" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert not rings(draw(STUDY))
    assert "SAM rho=0.5  97.5 %" in words(draw(STUDY, "SAM rho=0.5"))


@pytest.mark.parametrize("chosen", ["nobody", "crashed"])
def test_chosen_must_be_drawn(chosen: str) -> None:
    points = [*STUDY, trial("crashed", 1.2, 0.5, state="failed")]
    with pytest.raises(ValueError, match=f"chosen must name a trial with a result.*'{chosen}'"):
        draw(points, chosen)


@pytest.mark.parametrize(
    ("metric", "name", "tick"),
    [
        ("step_flops_ratio", "step cost over the base optimizer (counted FLOPs)", f"2{TIMES}"),
        ("step_time_ratio", "step cost over the base optimizer (measured time)", f"2{TIMES}"),
        ("epoch_seconds", "epoch seconds", "2"),
    ],
)
def test_axes_say_what_they_measure(metric: str, name: str, tick: str) -> None:
    figure = draw(STUDY, cost_metric=metric)
    assert {name, "validation accuracy"} <= set(words(figure))
    figure.draw_without_rendering()
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert "96 %" in ticks
    assert tick in [t.get_text() for t in figure.axes[-1].get_xticklabels()]


def test_legend_lists_what_is_there_and_covers_no_panel() -> None:
    def entries(figure: Figure) -> list[str]:
        return [text.get_text() for text in figure.legends[0].get_texts()]

    figure = draw([*STUDY, trial("stopped", 1.7, 0.91, state="pruned")], "esam b")
    assert entries(figure) == [
        "search trial",
        "stopped early",
        "Pareto front",
        "baselines",
        "chosen: esam b",
    ]
    assert entries(draw([trial("only", 1.3, 0.9, on_front=True)])) == ["Pareto front"]
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.y0 > figure.axes[0].get_window_extent().y1
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_a_full_legend_with_a_long_name_stays_inside() -> None:
    longest = "ESAM beta=0.31 gamma=0.36 rho=0.18 " * 2
    stopped = trial("stopped", 1.7, 0.91, state="pruned")
    figure = draw([*STUDY, stopped, trial(longest, 1.4, 0.97)], longest)
    figure.draw_without_rendering()
    assert len(figure.legends[0].get_texts()) == 5
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.width
    assert "gamma=0.36 rho=0.18" in figure.legends[0].get_texts()[-1].get_text()


def test_a_study_without_results_says_so() -> None:
    for points in ([], [trial("crashed", NAN, NAN, state="failed")]):
        figure = draw(points)
        assert "no trial has a result yet" in words(figure)
        assert markers(figure) == []


# --- intervals -------------------------------------------------------------------------------


def bars(figure: Figure) -> list[list[tuple[float, float]]]:
    """Ends of every interval's bar."""
    return [corners for line, corners in lines(figure) if line.get_alpha() == 0.75]


def test_intervals_of_front_and_baselines_are_bars_at_their_points() -> None:
    across, up = (1.30, 1.38), (0.94, 0.96)
    searched = trial("a", 1.34, 0.951, on_front=True, accuracy_interval=up, cost_interval=across)
    other = baseline("SAM", 2.0, 0.94, accuracy_interval=(0.93, 0.95))
    dot = trial("dot", 1.6, 0.93, accuracy_interval=(0.9, 0.96))
    figure = draw([searched, other, dot])
    assert sorted(bars(figure)) == sorted(
        [
            [(1.34, 0.94), (1.34, 0.96)],
            [(1.30, 0.951), (1.38, 0.951)],
            [(2.0, 0.93), (2.0, 0.95)],
        ]
    )
    assert "validation accuracy, mean with 95 % interval" in words(figure)
    assert bars(draw(STUDY)) == []


def test_a_wide_interval_of_two_seeds_does_not_flatten_the_front() -> None:
    wide = trial("wide", 1.5, 0.96, on_front=True, accuracy_interval=(0.2, 1.7))
    (axes,) = draw([*SEARCHED[2:], wide]).axes
    low, high = axes.get_ylim()
    assert low < 0.92 < 0.96 < high
    assert high - low < 0.12


def test_the_narrow_form_keeps_its_labels_inside_and_apart() -> None:
    figure = front_figure(
        STUDY,
        accuracy_metric="val_accuracy",
        cost_metric="step_flops_ratio",
        title="not shown",
        chosen="esam a",
        layout=NARROW,
    )
    assert "not shown" not in words(figure)
    boxes = label_boxes(figure)
    assert len(boxes) == 1 + len(BASELINES)
    for first, second in combinations(boxes, 2):
        assert not first.overlaps(second)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert figure.axes[0].get_window_extent().y1 < legend.y0
    assert legend.x1 <= figure.bbox.width
    assert legend.y1 <= figure.bbox.height


# --- labels ----------------------------------------------------------------------------------

NAMES = ["SAM rho=0.05", "SAM rho=0.1", "SAM rho=0.5", "ASAM rho=0.5", "ASAM rho=1", "LookSAM k=2"]
CROWDS = {
    "typical": STUDY,
    "all at one cost": [baseline(n, 2.0, 0.95 + 0.0005 * i) for i, n in enumerate(NAMES)],
    "all at one point": [baseline(name, 1.5, 0.95) for name in NAMES],
    "at the right edge under the search": SEARCHED
    + [baseline(n, 2.0, 0.97 + 0.002 * i) for i, n in enumerate(NAMES)],
    "in the strip": SEARCHED + [baseline(n, 2.0, 0.6 + 0.01 * i) for i, n in enumerate(NAMES[:5])],
    "one baseline": [BASELINES[0]],
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_labels_overlap_neither_each_other_nor_the_figure_s_edge(crowd: str) -> None:
    points = CROWDS[crowd]
    figure = draw(points, points[-1].trial_id)
    boxes = label_boxes(figure)
    assert len(boxes) >= 1 + sum(point.baseline for point in points)  # the title is one of them
    for first, second in combinations(boxes, 2):
        assert not first.overlaps(second)
    for box in boxes:
        assert figure.bbox.containsx(box.x0)
        assert figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0)


def test_labels_of_a_typical_study_stay_inside_and_leave_every_marker_visible() -> None:
    figure = draw(STUDY, "esam a")
    title, *boxes = sorted(label_boxes(figure), key=lambda box: -box.y0)
    panels = [axes.get_window_extent() for axes in figure.axes]
    assert title.y0 > panels[0].y1
    for box in boxes:
        assert any(panel.contains(*box.min) and panel.contains(*box.max) for panel in panels)
    for axes in figure.axes:
        alone: list[Any] = [line.get_xydata() for line in axes.lines]
        for place in [axes.transData.transform(xy[0]) for xy in alone if len(xy) == 1]:
            assert not any(box.contains(*place) for box in boxes)


def test_text_is_taken_literally_and_kept_short() -> None:
    odd = "$\\frac{1}$ " + "very long name " * 20
    figure = draw([baseline(odd, 1.0, 0.9), trial("$_$", 1.2, 0.95)], "$_$", title=odd)
    figure.draw_without_rendering()
    assert all(len(text) < 90 for text in words(figure))
    assert not any(text.get_parse_math() for text in figure.texts if "$" in text.get_text())


# --- files, state ----------------------------------------------------------------------------


def test_png_has_twice_the_readme_s_width(tmp_path: Path) -> None:
    path = tmp_path / "new" / "front.png"
    save_figure(draw(STUDY, "esam a"), path)
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(header[16:20], "big") == 1800


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_study_gives_the_same_file(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    save_figure(draw(STUDY), str(first))
    save_figure(draw(STUDY), second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", ["front.gif", "front"])
def test_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"path must end in \.png, \.svg, \.pdf, got .*front"):
        save_figure(draw([]), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": "running"}, "state must be one of .*, got 'running'"),
        ({"on_front": True, "state": "pruned"}, "on_front needs a complete trial"),
        ({"on_front": True, "accuracy": NAN}, "on_front needs a complete trial with finite values"),
    ],
)
def test_points_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trial("esam", 1.3, **{"accuracy": 0.9} | changes)


def test_a_reader_s_own_style_neither_leaks_in_nor_out() -> None:
    import matplotlib as mpl

    with mpl.rc_context({"text.color": "red", "font.size": 30}):
        figure = draw(STUDY)
        assert mpl.rcParams["font.size"] == 30
    sizes = {text.get_fontsize() for text in figure.texts}
    assert sizes == {text.get_fontsize() for text in draw(STUDY).texts}
    assert "red" not in {text.get_color() for text in figure.texts}


def test_import_waits_for_matplotlib_and_never_takes_pyplot() -> None:
    code = (
        "import sys; from esam_tune.report.front import front_figure;"
        "assert 'matplotlib' not in sys.modules;"
        "front_figure([], accuracy_metric='a', cost_metric='c', title='t', chosen=None);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_thousand_trials_are_drawn() -> None:
    random = np.random.default_rng(0)
    costs, levels = random.uniform(1, 2, 1000), random.uniform(0.8, 0.98, 1000)
    pairs = enumerate(zip(costs, levels, strict=True))
    points = [trial(str(i), float(cost), float(level)) for i, (cost, level) in pairs]
    assert len(markers(draw([*BASELINES, *points]))) == 1005

"""The plots: what is drawn where, what is left out, and that a failure costs a warning alone."""

import json
import logging
import re
from dataclasses import replace

import pytest
from PIL import Image
from report_studies import ReportStudy, full_study, three_objectives

from esam_tune.report import plots as drawn
from esam_tune.report.front import front_figure
from esam_tune.report.interactive import interactive_page
from esam_tune.report.panels import grid_figure, panel_figure
from esam_tune.report.parameter_plots import parallel, slices
from esam_tune.report.plots import costs, curve_trials, curves, hypervolume, static_plots
from esam_tune.report.study import Axis
from esam_tune.report.style import TIMES
from esam_tune.study import plot_files
from esam_tune.study.optuna_view import figures, importances
from esam_tune.study.results import write_results

NAMES = {"hypervolume", "importance", "parallel_coordinates", "slices", "learning_curves", "costs"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return full_study(tmp_path_factory.mktemp("storage"), trials=12, seeds=2)


@pytest.fixture(scope="module")
def data(study):
    return replace(study.data(), importances=importances(study.record()))


def axes_of(plot, panel=0):
    return panel_figure(plot, panel).axes[0]


def points(axes):
    lines = [line for line in axes.lines if line.get_linestyle() == "None"]
    return [(line, (float(x), float(y))) for line in lines for x, y in line.get_xydata()]


# --- what is drawn ----------------------------------------------------------------------------


def test_a_study_has_all_plots_and_a_small_one_those_it_has_enough_for(data, tmp_path):
    assert {plot.name for plot in static_plots(data)} == NAMES
    assert static_plots(ReportStudy(tmp_path).data()) == []


def test_hypervolume_rises_over_the_time_of_the_study(data):
    axes = axes_of(hypervolume(data))
    times, shares = axes.lines[0].get_data()
    assert list(shares[1:]) == [moment.share for moment in data.history]
    assert list(times) == sorted(times)
    assert list(shares) == sorted(shares)
    grown = axes.lines[1].get_ydata()
    assert sorted(set(shares[1:]) - {0.0}) == sorted(set(grown))


def interval_bars(data):
    """Ends of the bars in the picture of the front."""
    figure = front_figure(
        data.points(),
        accuracy_metric=data.accuracy,
        cost_metric=data.cost,
        title="",
        chosen=data.chosen,
    )
    lines = [line for axes in figure.axes for line in axes.lines if line.get_alpha() == 0.75]
    return sorted(line.get_xydata().ravel().tolist() for line in lines)


def test_the_front_of_two_seeds_has_intervals_at_its_members_and_at_the_baselines(data, tmp_path):
    weighed = [trial for trial in data.complete if trial.on_front or trial.baseline]
    assert 3 < len(weighed) < len(data.complete)
    expected = []
    for trial in weighed:
        cost, accuracy = (trial.values[key] for key in (data.cost, data.accuracy))
        low, high = trial.intervals[data.accuracy]
        assert low < accuracy < high
        expected.append([cost, low, cost, high])
        if data.cost in trial.intervals:
            low, high = trial.intervals[data.cost]
            expected.append([low, accuracy, high, accuracy])
    assert interval_bars(data) == sorted(expected)
    assert interval_bars(full_study(tmp_path, trials=4).data()) == []


def test_slices_have_every_search_trial_at_its_value(data):
    plot = slices(data)
    assert len(plot.panels) == 6
    axes = axes_of(plot, 4)
    assert axes.get_xlabel() == "rho (log scale)"
    assert axes.get_xscale() == "log"
    expected = [(t.params["rho"], t.values["val_accuracy"]) for t in data.searched]
    shown = [place for line, place in points(axes) if line.get_markersize() < 9]
    front = [place for line, place in points(axes) if line.get_markersize() == 9.5]
    assert len(front) == sum(not trial.baseline for trial in data.front)
    assert sorted(shown) == sorted(expected)
    choice = data.choice
    rings = [place for line, place in points(axes) if line.get_markersize() == 15]
    assert rings == [(choice.params["rho"], choice.values["val_accuracy"])] * (not choice.baseline)


def test_choices_and_missing_parameters_have_their_place(data):
    axis = Axis(key="selection", choices=("exact", "first_order"))
    only = replace(data, axes=(axis, Axis(key="every", low=1, high=4)))
    for plot in (slices(only), parallel(only)):
        for panel in range(len(plot.panels)):
            axes_of(plot, panel)
    assert {place[0] for _, place in points(axes_of(slices(only)))} == {0.0}


@pytest.mark.parametrize(
    ("searched", "inside"),
    [
        ({"choices": [0.25, 0.5]}, {0.25: 0.0, 0.5: 1.0}),
        ({"low": 0.2, "high": 0.6}, {0.25: 0.25, 0.5: 0.5}),
        ({"low": 0.2, "high": 0.6, "log": True}, {0.25: 0.25, 0.5: 0.5}),
    ],
)
def test_a_value_that_was_not_searched_has_no_place(tmp_path, searched, inside):
    """With exact selection gamma is 1, which no trial that searches it can have."""
    gamma = searched | {"when": {"selection": "first_order"}, "default": 1.0}
    selection = {"choices": ["exact", "first_order"]}
    search = {"optimizer": "esam", "selection": selection, "gamma": gamma}
    study = ReportStudy(tmp_path, search=search)
    for number, value in enumerate((0.25, 1.0, 0.5, 1.0)):
        params = {"optimizer": "esam", "gamma": value}
        params["selection"] = "exact" if value == 1.0 else "first_order"
        study.setting(0.90 + 0.01 * number, 1.5 + 0.1 * number, params=params, number=number)
    data = study.data()
    (axis,) = [axis for axis in data.axes if axis.key == "gamma"]
    only = replace(data, axes=(axis,))
    for panel in range(2):
        axes = axes_of(slices(only), panel)
        assert {place[0] for _, place in points(axes)} == set(inside.values())
        assert all(
            axes.get_xlim()[0] <= place[0] <= axes.get_xlim()[1] for _, place in points(axes)
        )
    lines = [line for line in axes_of(parallel(only)).lines if line.get_marker() == "o"]
    assert sorted(len(line.get_xdata()) for line in lines) == [2, 2, 3, 3]
    static = [plot for plot in static_plots(data) if plot.name == "slices"]
    grid_figure(static[0], 2).draw_without_rendering()


def test_parallel_lines_go_from_parameters_to_objectives(data):
    axes = axes_of(parallel(data))
    lanes = [tick.get_text() for tick in axes.get_xticklabels()]
    assert lanes == ["beta", "gamma", "rho", "FLOPs/SGD", "val acc"]
    lines = [line for line in axes.lines if len(line.get_xdata()) == len(lanes)]
    assert len(lines) == len(data.searched)
    heights = [height for line in lines for height in line.get_ydata()]
    assert 0 <= min(heights) <= max(heights) <= 1
    best = max(lines, key=lambda line: line.get_ydata()[-1])
    assert best.get_ydata()[-1] == 1.0


def test_learning_curves_are_the_chosen_one_s_and_the_front_s_as_means(data):
    shown = curve_trials(data)
    assert shown[0].trial_id == data.chosen
    assert {t.trial_id for t in shown} <= {t.trial_id for t in data.front}
    axes = axes_of(curves(data))
    thick = [line for line in axes.lines if line.get_linewidth() == 1.7]
    assert len(thick) == len(shown)
    first, second = shown[0].curves
    assert list(thick[0].get_ydata()) == pytest.approx(
        [(a + b) / 2 for a, b in zip(first.values, second.values, strict=True)]
    )
    looks = {(line.get_color(), line.get_marker(), str(line._dash_pattern)) for line in thick}
    assert len(looks) == len(thick)


def test_of_a_long_front_as_many_curves_as_can_be_told_apart(tmp_path):
    study = ReportStudy(tmp_path, trials=40)
    for number in range(40):
        study.setting(0.5 + number / 100, 1.0 + number / 40, number=number)
    data = study.data()
    shown = curve_trials(data)
    assert len(shown) == 6
    assert {data.front[0].trial_id, data.front[-1].trial_id} <= {t.trial_id for t in shown}
    assert len({t.trial_id for t in shown}) == 6


def test_costs_lie_beside_the_line_of_equal_cost(data):
    axes = axes_of(costs(data))
    assert list(axes.lines[0].get_xdata()) == list(axes.lines[0].get_ydata())
    shown = sorted(place for _, place in points(axes))
    keys = ("step_flops_ratio", "step_time_ratio")
    assert shown == sorted(tuple(t.values[k] for k in keys) for t in data.complete)


def test_no_text_of_a_plot_is_taken_for_mathematics(data):
    odd = replace(data, trials=tuple(replace(t, label="$\\frac{1}$ $_$") for t in data.trials))
    for plot in static_plots(odd):
        grid_figure(plot, 3).draw_without_rendering()


# --- files ------------------------------------------------------------------------------------


def test_a_study_s_end_leaves_pictures_and_one_interactive_page(tmp_path):
    study = full_study(tmp_path, trials=8)
    written = write_results(study.folder, study.record())
    assert [path.name for path in written] == ["front.csv", "front.png", "plots", "chosen.yaml"]
    names = {path.name for path in written[2].iterdir()}
    assert names == {f"{name}.png" for name in NAMES} | {"interactive.html"}
    for path in written[2].glob("*.png"):
        with Image.open(path) as image:
            assert image.width >= 1400


@pytest.mark.parametrize(("trials", "all_plots"), [(3, True), (8, False)])
def test_few_trials_and_a_study_in_a_hurry_have_the_front_alone(tmp_path, trials, all_plots):
    study = full_study(tmp_path, trials=trials)
    written = write_results(study.folder, study.record(), all_plots=all_plots)
    assert [path.name for path in written] == ["front.csv", "front.png", "chosen.yaml"]
    assert not (study.folder.path / "plots").exists()


@pytest.mark.parametrize("parts", [("study_data",), ("_hypervolume", "importances", "_page")])
def test_what_cannot_be_drawn_is_a_warning_and_the_rest_is_there(
    tmp_path, monkeypatch, caplog, parts
):
    def fail(*_, **__):
        raise RuntimeError("no fonts here")

    places = {
        "study_data": "esam_tune.study.report_data.study_data",
        "_hypervolume": "esam_tune.report.plots._hypervolume",
        "importances": "esam_tune.study.optuna_view.importances",
        "_page": "esam_tune.report.interactive.interactive_page",
    }
    for part in parts:
        monkeypatch.setattr(places[part], fail)
    study = full_study(tmp_path, trials=8)
    with caplog.at_level(logging.WARNING, logger=plot_files.__name__):
        written = write_results(study.folder, study.record())
    assert caplog.text.count("no fonts here") == len(parts)
    assert [written[0].name, written[-1].name] == ["front.csv", "chosen.yaml"]
    left = {path.stem for path in study.folder.path.glob("plots/*.*")}
    assert left == (set() if len(parts) == 1 else NAMES - {"hypervolume", "importance"})
    assert (study.folder.path / "front.png").exists() == (len(parts) > 1)


# --- interactive ------------------------------------------------------------------------------


def test_the_interactive_page_holds_plotly_once_and_fetches_nothing(study, data):
    page = interactive_page(data, figures(study.record()))
    assert page.count("<script>/*") + page.count("<script>!function") == 1
    # Between its tags there is nothing but plotly.js, which makes elements, and figures.
    tags = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert re.findall(r"(?:src|href)=\S*", tags) == ['href="data:,">']
    assert not re.search(r"<(img|iframe|object)", tags)
    assert "default-src 'none'" in page
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings[:2] == ["The front, with baselines", "Learning curves of the front"]
    for words in ("Parallel coordinates", "Slices: val accuracy", "Slices: step flops ratio"):
        assert words in headings
    assert sum("Importance" in heading for heading in headings) == 2


def test_the_interactive_front_has_intervals_and_every_trial(data):
    from esam_tune.report.interactive import front

    traces = json.loads(front(data).to_json())["data"]
    markers = [trace for trace in traces if trace["mode"] == "markers"]
    names = [trace["name"] for trace in markers]
    assert {"SGD", "SAM rho=0.5"} <= set(names)
    rings = [trace for trace in markers if trace["name"].startswith("chosen")]
    shown = sum(len(t["text"]) for t in markers) - len(rings)
    assert shown == len(data.complete)
    (sgd,) = [trace for trace in markers if trace["name"] == "SGD"]
    assert sgd["error_y"]["array"][0] > 0
    assert sgd["error_y"]["array"][0] == pytest.approx(sgd["error_y"]["arrayminus"][0])


def test_the_interactive_line_leaves_out_members_that_others_beat_in_both(tmp_path):
    from esam_tune.report.interactive import front

    data = three_objectives(tmp_path).data("accuracy")
    assert len(data.front) == 4
    line, _, members = json.loads(front(data).to_json())["data"][:3]
    assert (line["x"], line["y"]) == ([1.2, 1.6], [0.90, 0.95])
    assert len(members["x"]) == 4


@pytest.mark.parametrize(
    ("objectives", "across", "up"),
    [
        (("val_accuracy", "step_time_ratio"), {"ticksuffix": TIMES}, {"tickformat": ".1%"}),
        (("images_per_second", "sharpness"), {}, {}),
    ],
)
def test_interactive_axes_are_in_their_metrics_units(tmp_path, objectives, across, up):
    from esam_tune.report import interactive

    study = ReportStudy(tmp_path, objectives=dict(zip(objectives, ("max", "min"), strict=True)))
    for number, values in enumerate([(0.9, 0.3), (0.8, 0.2)]):
        study.measured(dict(zip(objectives, values, strict=True)), number=number)
    data = study.data()
    for figure, expected in (
        (interactive.front(data), (across, up)),
        (interactive.curves(data), ({}, up)),
    ):
        layout = json.loads(figure.to_json())["layout"]
        for axis, wanted in zip(("xaxis", "yaxis"), expected, strict=True):
            said = {k: v for k, v in layout[axis].items() if k.startswith("tick")}
            assert said == wanted


def test_labels_of_the_interactive_page_are_no_markup(data):
    odd = "</script><script>alert(1)</script><a href='http://elsewhere'>x</a>"
    hostile = replace(
        data, name=odd, trials=tuple(replace(trial, label=odd) for trial in data.trials)
    )
    page = interactive_page(hostile)
    # As figures, once JavaScript has read them, it is escaped for the markup that plotly knows.
    decoded = page.replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u002f", "/")
    for form in (page, decoded):
        assert "<script>alert(1)" not in form
        assert "<a href='http://elsewhere'" not in form
    assert "&lt;script&gt;alert(1)" in page
    assert drawn.curve_trials(hostile)

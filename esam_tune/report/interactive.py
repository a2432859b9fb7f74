"""The interactive plots of a study: one HTML file, which holds plotly.js and needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import cycle
from typing import Any

from esam_tune import metrics as keys
from esam_tune.report.front import front_line
from esam_tune.report.plots import curve_trials
from esam_tune.report.study import Study, Trial
from esam_tune.report.style import BLUE, DOT, GRID, INK, TIMES, VERMILION, axis_name

_COLOURS = (INK, BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SHAPES = ("square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon")
# plotly.js compiles some of its drawing code as it runs; nothing is fetched, whatever it does.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; form-action 'none'"
)
# Without plotly's button that hands the data to a server of its makers.
_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
}
_SHEET = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff; margin: 0 auto;
  max-width: 68rem; padding: 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 0.25rem; }
"""


def interactive_page(study: Study, others: Sequence[tuple[str, Any]] = ()) -> str:
    """The page: the front and the learning curves, and below them other figures of plotly's.

    Args:
        study: so far.
        others: of each its heading and its figure, whose own title the heading replaces.
    """
    from plotly.offline import get_plotlyjs

    figures: list[tuple[str, Any]] = [("The front, with baselines", front(study))]
    if any(trial.curves for trial in curve_trials(study)):
        figures.append(("Learning curves of the front", curves(study)))
    parts = []
    for number, (heading, figure) in enumerate([*figures, *others]):
        figure.update_layout(title=None, margin={"t": 40})
        drawn = figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"plot-{number}",
            config=_CONFIG,
        )
        parts.append(f"<section><h2>{escape(heading)}</h2>{drawn}</section>")
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(study.name)}: interactive plots</title>
<style>{_SHEET}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<h1>{escape(study.name)}</h1>
{body}
</body>
</html>
"""


def front(study: Study) -> Any:
    """Accuracy against cost of all trials, as a figure of plotly's."""
    from plotly import graph_objects as go

    figure = _figure(study.cost, study.accuracy)
    members = study.front
    if members:
        places = [(trial.values[study.cost], trial.values[study.accuracy]) for trial in members]
        costs, levels = zip(*front_line(places), strict=True)
        figure.add_trace(
            go.Scatter(
                x=costs,
                y=levels,
                mode="lines",
                line={"color": BLUE, "width": 2, "shape": "hv"},
                name="Pareto front",
                hoverinfo="skip",
            )
        )
    rest = [trial for trial in study.searched if not trial.on_front]
    plain = {"color": DOT, "size": 9, "line": {"color": "white", "width": 1}}
    groups: list[tuple[str, list[Trial], dict[str, Any]]] = [
        ("search trial", rest, plain),
        (
            "on the front",
            [t for t in members if not t.baseline],
            plain | {"color": BLUE, "size": 12},
        ),
    ]
    for shape, trial in zip(
        cycle(_SHAPES), [t for t in study.complete if t.baseline], strict=False
    ):
        look = {"color": VERMILION, "size": 12, "symbol": shape + "-open" * (not trial.on_front)}
        groups.append((escape(trial.label), [trial], look))
    if study.choice is not None:
        ring = {"color": INK, "size": 20, "symbol": "circle-open", "line": {"width": 2}}
        groups.append((f"chosen: {escape(study.choice.label)}", [study.choice], ring))
    for name, trials, look in groups:
        if trials:
            figure.add_trace(_points(study, name, trials, look))
    return figure


def curves(study: Study) -> Any:
    """The accuracy of the front's runs by epoch, as a figure of plotly's."""
    from plotly import graph_objects as go

    figure = _figure(keys.EPOCH, study.accuracy)
    for colour, dash, trial in zip(_COLOURS, _DASHES, curve_trials(study), strict=False):
        for number, curve in enumerate(trial.curves):
            figure.add_trace(
                go.Scatter(
                    x=curve.epochs,
                    y=curve.values,
                    mode="lines",
                    line={"color": colour, "dash": dash, "width": 2 if number == 0 else 1},
                    name=f"{escape(trial.label)}, seed {curve.seed}",
                    legendgroup=trial.trial_id,
                )
            )
    return figure


def _points(study: Study, name: str, trials: Sequence[Trial], look: dict[str, Any]) -> Any:
    from plotly import graph_objects as go

    errors = {}
    # Those of all dots would hide the dots, and the ring lies on a point that has its own.
    ring = look.get("symbol") == "circle-open"
    if not ring and any(trial.on_front or trial.baseline for trial in trials):
        errors = {
            f"error_{side}": _bars(metric, trials)
            for side, metric in (("x", study.cost), ("y", study.accuracy))
        }
    return go.Scatter(
        x=[trial.values[study.cost] for trial in trials],
        y=[trial.values[study.accuracy] for trial in trials],
        mode="markers",
        marker=look,
        name=name,
        text=[_hover(study, trial) for trial in trials],
        hovertemplate="%{text}<extra></extra>",
        **errors,
    )


def _bars(metric: str, trials: Sequence[Trial]) -> dict[str, Any]:
    """Intervals as plotly has them: how far they reach to either side, 0 where there is none."""
    means = [trial.values[metric] for trial in trials]
    ends = [trial.intervals.get(metric, (m, m)) for trial, m in zip(trials, means, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - mean for (_, high), mean in zip(ends, means, strict=True)],
        "arrayminus": [mean - low for (low, _), mean in zip(ends, means, strict=True)],
        "thickness": 1.2,
    }


def _hover(study: Study, trial: Trial) -> str:
    lines = [f"{escape(trial.trial_id)}: {escape(trial.label)}"]
    lines += [f"{study.headings[key]}: {trial.cells[key]}" for key in study.columns]
    return "<br>".join([*lines, f"seeds: {trial.seeds}"])


def _figure(x: str, y: str) -> Any:
    """An empty figure with two metrics' axes."""
    from plotly import graph_objects as go

    return go.Figure(
        layout={
            "xaxis": _axis(x),
            "yaxis": _axis(y),
            "plot_bgcolor": "white",
            "height": 560,
        }
    )


def _axis(metric: str) -> dict[str, Any]:
    axis = {"title": {"text": axis_name(metric)}, "gridcolor": GRID, "zeroline": False}
    if metric == keys.VAL_ACCURACY:
        return axis | {"tickformat": ".1%"}
    return axis | ({"ticksuffix": TIMES} if metric in keys.COST_METRICS else {})

"""Plots of what the searched parameters do."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, log
from typing import TYPE_CHECKING

from esam_tune import metrics as keys
from esam_tune.report.panels import DARK, Plot, formatted, named, titled
from esam_tune.report.study import Axis, Study, Trial
from esam_tune.report.style import (
    BLUE,
    DOT,
    FRONT_LINE,
    GRID,
    INK,
    MUTED,
    ON_FRONT,
    PRUNED,
    RING,
    SEARCHED,
    Style,
    axis_name,
    plain_axes,
    value_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_AXES = 7


def importance(study: Study) -> Plot | None:
    """The share of each objective that each parameter explains, by each evaluator."""
    if not study.importances:
        return None
    panels = tuple(
        (lambda axes, key=key: _importance(axes, study, key))
        for key in dict.fromkeys(found.objective for found in study.importances)
    )
    return Plot("importance", "Importance of the parameters", panels, left=1.1)


def parallel(study: Study) -> Plot | None:
    """Every complete search trial as a line through its parameters and objectives."""
    if len(study.searched) < 2 or not study.axes:
        return None
    panels = (lambda axes: _parallel(axes, study),)
    return Plot("parallel_coordinates", "Parallel coordinates", panels, left=0.2)


def slices(study: Study) -> Plot | None:
    """Each objective against each of beta, gamma and rho, or what else is searched."""
    if len(study.searched) < 2:
        return None
    usual = [axis for axis in study.axes if axis.key in ("beta", "gamma", "rho")]
    panels = tuple(
        (lambda axes, axis=axis, key=key: _slice(axes, study, axis, key))
        for axis in (usual or study.axes[:3])
        for key in (study.accuracy, study.cost)
    )
    return Plot("slices", "Slices of the parameters", panels) if panels else None


def _importance(axes: Axes, study: Study, objective: str) -> None:
    found = [each for each in study.importances if each.objective == objective]
    first = found[0]
    order = sorted(
        {key for each in found for key in each.shares},
        key=lambda key: (first.shares.get(key, 0.0), key),
    )[-_MOST_AXES:]
    rows = range(len(order))
    plain_axes(axes)
    axes.grid(visible=False, axis="y")
    axes.barh(rows, [first.shares.get(k, 0.0) for k in order], 0.5, color=BLUE, alpha=0.85)
    for other in found[1:]:
        known = [row for row, key in enumerate(order) if key in other.shares]
        axes.plot(
            [other.shares[order[row]] for row in known],
            known,
            clip_on=False,
            zorder=4,
            **DARK | {"marker": "D"},
        )
    axes.set_yticks(rows, order, color=INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(order) - 0.4)
    formatted(axes.xaxis, keys.VAL_ACCURACY)
    names = f"bars {first.evaluator}" + "".join(f", diamonds {e.evaluator}" for e in found[1:])
    titled(axes, axis_name(objective).partition(" (")[0])
    named(axes, f"share explained: {names}", "")


def _parallel(axes: Axes, study: Study) -> None:
    lanes = [*(axis.key for axis in study.axes[:_MOST_AXES]), study.cost, study.accuracy]
    trials = study.searched
    scales = [_Lane(study, key, trials) for key in lanes]
    axes.grid(visible=False)
    axes.tick_params(length=0, pad=18, labelsize=9.5)
    axes.spines[:].set(visible=False)
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([])
    axes.set_xlim(-0.25, len(lanes) - 0.75)
    short = [study.headings.get(key, key) for key in lanes]
    axes.set_xticks(range(len(lanes)), short, color=INK)
    for lane, scale in enumerate(scales):
        axes.axvline(lane, color=GRID, lw=1.6, zorder=1)
        for height, words in scale.ends:
            place = "bottom" if height > 0.5 else "top"
            at: Style = {"ha": "center", "va": place, "size": 8.5, "color": MUTED}
            offset = 0.03 if height > 0.5 else -0.03
            axes.text(lane, height + offset, words, **at).set_parse_math(False)
    plain: Style = {"color": DOT, "lw": 1.0, "alpha": 0.7, "zorder": 2}
    for trial in sorted(trials, key=lambda t: (t.trial_id == study.chosen, t.on_front)):
        heights = [scale.share(trial) for scale in scales]
        look = FRONT_LINE | {"zorder": 3} if trial.on_front else plain
        if trial.trial_id == study.chosen:
            look = {"color": INK, "lw": 2.4, "ls": (0, (5, 2)), "zorder": 4}
        known = [(lane, height) for lane, height in enumerate(heights) if isfinite(height)]
        axes.plot(*zip(*known, strict=True), marker="o", ms=3.5, mec="none", **look)


class _Lane:
    """Where trials' values of one parameter or objective lie between 0 and 1."""

    def __init__(self, study: Study, key: str, trials: Sequence[Trial]) -> None:
        self._key = key
        self._axis = next((axis for axis in study.axes if axis.key == key), None)
        self._choices = () if self._axis is None else self._axis.choices
        if self._axis is None:
            numbers = [trial.values[key] for trial in trials]
            self._low, self._high = min(numbers), max(numbers)
        elif self._choices:
            self._low, self._high = 0.0, max(len(self._choices) - 1.0, 1.0)
        else:
            self._low, self._high = self._axis.low, self._axis.high

    @property
    def ends(self) -> list[tuple[float, str]]:
        """Heights with what stands there."""
        if self._choices:
            return [(n / self._high, str(choice)) for n, choice in enumerate(self._choices)]
        ends = (self._low, self._high)
        return [(height, value_text(self._key, v)) for height, v in enumerate(ends)]

    def share(self, trial: Trial) -> float:
        """The height of a trial; NaN where it has no place on the parameter's axis."""
        number = trial.values[self._key] if self._axis is None else self._axis.place(trial)
        low, high = self._low, self._high
        if not isfinite(number):
            return number
        if not high > low:
            return 0.5
        if self._axis is not None and self._axis.log:
            number, low, high = log(number), log(low), log(high)
        return (number - low) / (high - low)


def _slice(axes: Axes, study: Study, axis: Axis, metric: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    plain_axes(axes)
    shown = [
        trial
        for trial in study.trials
        if not trial.baseline and isfinite(axis.place(trial)) and isfinite(trial.values[metric])
    ]
    places = {trial.trial_id: (axis.place(trial), trial.values[metric]) for trial in shown}
    kinds: list[tuple[list[Trial], Style]] = [
        # What was stopped early may lie far below: it is cut at the edge.
        ([t for t in shown if t.state == "pruned"], PRUNED | {"zorder": 3}),
        ([t for t in shown if t.state == "complete"], SEARCHED | {"zorder": 3, "clip_on": False}),
        ([t for t in shown if t.on_front], ON_FRONT | {"zorder": 4, "clip_on": False}),
        ([t for t in shown if t.trial_id == study.chosen], RING | {"ms": 15, "clip_on": False}),
    ]
    for trials, look in kinds:
        if trials:
            axes.plot(*zip(*(places[trial.trial_id] for trial in trials), strict=True), **look)
    for trial in kinds[2][0]:
        if metric in trial.intervals:
            ends = trial.intervals[metric]
            axes.plot(
                [places[trial.trial_id][0]] * 2, ends, color=BLUE, lw=1.2, alpha=0.6, zorder=2
            )
    values = [t.values[metric] for t in study.searched]
    room = 0.25 * (max(values) - min(values)) or 0.01
    axes.set_ylim(min(values) - room, max(values) + room)
    if axis.choices:
        axes.set_xticks(range(len(axis.choices)), [str(choice) for choice in axis.choices])
        axes.set_xlim(-0.5, len(axis.choices) - 0.5)
    else:
        if axis.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(axis.low, axis.high)
    formatted(axes.yaxis, metric)
    name = axis_name(metric).partition(" (")[0]
    titled(axes, name)
    named(axes, axis.key + " (log scale)" * axis.log, "")

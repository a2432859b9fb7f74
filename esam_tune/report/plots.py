"""The plots of a study beside its front: how it went, and all that are written as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from textwrap import shorten
from typing import TYPE_CHECKING

from esam_tune import metrics as keys
from esam_tune.report.panels import DARK, PANEL_HEIGHT, Plot, formatted, named
from esam_tune.report.parameter_plots import importance, parallel, slices
from esam_tune.report.study import Curve, Study, Trial
from esam_tune.report.style import (
    BLUE,
    DOT,
    FRONT_LINE,
    GREEN,
    INK,
    ON_FRONT,
    ORANGE,
    PURPLE,
    SEARCHED,
    TIMES,
    VERMILION,
    Style,
    plain_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour, dashes and marker: each alone tells the curves apart.
_LOOKS: tuple[Style, ...] = (
    {"color": INK, "ls": "-", "marker": "o"},
    {"color": BLUE, "ls": (0, (5, 1.5)), "marker": "^"},
    {"color": VERMILION, "ls": (0, (1.5, 1.2)), "marker": "s"},
    {"color": GREEN, "ls": (0, (5, 1.5, 1, 1.5)), "marker": "D"},
    {"color": PURPLE, "ls": (0, (8, 2)), "marker": "v"},
    {"color": ORANGE, "ls": (0, (3, 1, 1, 1, 1, 1)), "marker": "p"},
)


def static_plots(study: Study) -> list[Plot]:
    """Every plot that the study has enough for."""
    kinds = (hypervolume, importance, parallel, slices, curves, costs)
    return [plot for kind in kinds if (plot := kind(study)) is not None]


def hypervolume(study: Study) -> Plot | None:
    """How much of the objectives' box the front dominated as the study went on."""
    if len(study.history) < 2:
        return None
    panels = (lambda axes: _hypervolume(axes, study),)
    return Plot("hypervolume", "Hypervolume over time", panels, left=0.95, top=0.12)


def curves(study: Study) -> Plot | None:
    """The accuracy of the front's trials, epoch by epoch."""
    if not any(curve.epochs for trial in curve_trials(study) for curve in trial.curves):
        return None
    room = 0.18 * len(curve_trials(study))
    return Plot(
        "learning_curves",
        "Learning curves of the front",
        (lambda axes: _curves(axes, study),),
        bottom=0.62 + room,
        top=0.12,
        height=PANEL_HEIGHT + room,
    )


def curve_trials(study: Study) -> list[Trial]:
    """The trials whose curves are drawn, as many as can be told apart: the chosen one first.

    Of a front of more, those that lie evenly along it, its ends among them.
    """
    front = [trial for trial in study.front if trial.trial_id != study.chosen]
    choice = study.choice
    room = len(_LOOKS) - (choice is not None)
    if len(front) > room:
        front = [front[round(n * (len(front) - 1) / (room - 1))] for n in range(room)]
    return [*([] if choice is None else [choice]), *front]


def costs(study: Study) -> Plot | None:
    """Measured step time against counted FLOPs."""
    wanted = (keys.STEP_FLOPS_RATIO, keys.STEP_TIME_RATIO)
    known = [t for t in study.complete if all(isfinite(t.values[key]) for key in wanted)]
    if len(known) < 2:
        return None
    panels = (lambda axes: _costs(axes, known),)
    return Plot("costs", "Counted and measured cost", panels, left=0.95, top=0.12)


def _hypervolume(axes: Axes, study: Study) -> None:
    plain_axes(axes)
    last = study.history[-1].seconds
    unit, name = (3600.0, "hours") if last > 7200 else (60.0, "minutes")
    unit, name = (unit, name) if last > 120 else (1.0, "seconds")
    times = [moment.seconds / unit for moment in study.history]
    shares = [moment.share for moment in study.history]
    axes.plot([0, *times], [0, *shares], drawstyle="steps-post", **FRONT_LINE)
    grown = [n for n, share in enumerate(shares) if share > (shares[n - 1] if n else 0.0)]
    if grown:
        axes.plot([times[n] for n in grown], [shares[n] for n in grown], **ON_FRONT | {"ms": 6.5})
    axes.set_xlim(0, max(times[-1], 1e-9) * 1.02)
    axes.set_ylim(0, 1.05)
    formatted(axes.yaxis, keys.VAL_ACCURACY)
    named(axes, f"{name} that the study ran", "share of the box dominated")


def _curves(axes: Axes, study: Study) -> None:
    from matplotlib.ticker import MaxNLocator

    plain_axes(axes)
    shown = curve_trials(study)
    last = max(curve.epochs[-1] for trial in shown for curve in trial.curves)
    for look, trial in zip(_LOOKS, shown, strict=False):
        means = _mean_curve(trial.curves)
        for curve in trial.curves if len(trial.curves) > 1 else ():
            axes.plot(curve.epochs, curve.values, color=look["color"], lw=0.8, alpha=0.3, zorder=2)
        every = max(1, len(means) // 6)
        axes.plot(
            [epoch for epoch, _ in means],
            [value for _, value in means],
            label=shorten(trial.label, 44, placeholder=" …"),
            markevery=(every - 1, every), ms=5.5, mec="white", mew=0.7, lw=1.7, zorder=3, **look,
        )  # fmt: skip
    # What happens in the first epochs is far below all that matters later.
    late = [
        value
        for trial in shown
        for curve in trial.curves
        for epoch, value in zip(curve.epochs, curve.values, strict=True)
        if epoch > 0.2 * last
    ]
    low, high = min(late), max(late)
    room = 0.08 * (high - low) or 0.01
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(0, last * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    formatted(axes.yaxis, study.accuracy)
    named(axes, "epoch", "")
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(-0.02, -0.2), frameon=False, fontsize=9,
        handlelength=3.2, labelspacing=0.3, borderaxespad=0,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _mean_curve(curves: Sequence[Curve]) -> list[tuple[int, float]]:
    """The mean over the runs at each epoch that all of them reached."""
    known = [dict(zip(curve.epochs, curve.values, strict=True)) for curve in curves]
    common = sorted(set.intersection(*(set(values) for values in known))) if known else []
    return [(epoch, sum(values[epoch] for values in known) / len(known)) for epoch in common]


def _costs(axes: Axes, trials: Sequence[Trial]) -> None:
    plain_axes(axes)
    pairs = [
        (trial, trial.values[keys.STEP_FLOPS_RATIO], trial.values[keys.STEP_TIME_RATIO])
        for trial in trials
    ]
    low = min(min(x, y) for _, x, y in pairs)
    high = max(max(x, y) for _, x, y in pairs)
    room = 0.06 * (high - low) or 0.1
    axes.plot([low, high], [low, high], color=DOT, lw=1.4, ls=(0, (1.5, 1.5)), zorder=1)
    for trial, x, y in pairs:
        look = ON_FRONT if trial.on_front else SEARCHED
        axes.plot(x, y, zorder=3, **(DARK if trial.baseline else look))
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(low - room, high + room)
    formatted(axes.xaxis, keys.STEP_FLOPS_RATIO)
    formatted(axes.yaxis, keys.STEP_TIME_RATIO)
    named(axes, f"counted FLOPs, {TIMES} a base step", f"measured time, {TIMES} a base step")

"""The report's section on the front, and the table of trials, which other sections have, too."""

from __future__ import annotations

from collections.abc import Sequence

from esam_tune import metrics as keys
from esam_tune.report.answer import difference_text, difference_unit
from esam_tune.report.blocks import Block, Picture, Row, Section, Table
from esam_tune.report.front import NARROW, UNTITLED, front_figure
from esam_tune.report.study import Study, Trial
from esam_tune.report.style import axis_name
from esam_tune.report.vector import inline_svg

MOST_ROWS = 60


def front_section(study: Study) -> Section:
    """The front as a picture and a table."""
    drawings = [
        front_figure(
            study.points(),
            accuracy_metric=study.accuracy,
            cost_metric=study.cost,
            title="",
            chosen=study.chosen,
            layout=layout,
        )
        for layout in (UNTITLED, NARROW)
    ]
    up, across = (axis_name(key).partition(" (")[0] for key in (study.accuracy, study.cost))
    described = f"{len(study.complete)} trials by {up} and {across}, with the Pareto front"
    wide, narrow = (
        inline_svg(figure, name=name, description=described)
        for figure, name in zip(drawings, ("front", "front-narrow"), strict=True)
    )
    blocks: list[Block] = [Picture(svg=wide, narrow=narrow, caption=_reading(study))]
    if study.complete:
        words = "The front by cost, and below it, in grey, the baselines that are not on it."
        blocks.append(trials_table(study, [*study.front, *study.off_front], words, grey=True))
    return Section(key="front", title="The front", blocks=blocks)


def _reading(study: Study) -> str:
    """How to read the front's picture."""
    priced = study.cost in (*keys.COST_METRICS, keys.EPOCH_SECONDS)
    sides = "Up is better, left is cheaper." if priced else "Up is better, and so is left."
    shown = (study.accuracy, study.cost)
    hidden = [study.headings[key] for key in study.objectives if key not in shown]
    others = (
        " objectives shown; members of the front beside it owe their place to "
        f"{' or '.join(hidden)}, which the picture does not show"
        if hidden
        else ""
    )
    seeds = (
        " Bars are 95 % intervals of means over the seeds, cut at the edge of the picture."
        if study.several_seeds
        else ""
    )
    bounds = f" Only trials with {' and '.join(study.constraints)} may be on it."
    return (
        f"{sides} The line joins the settings that no other beats in "
        f"both{others}; the ring is the setting chosen by {study.rule}.{seeds}"
        f"{bounds * bool(study.constraints)}"
    )


def trials_table(
    study: Study, shown: Sequence[Trial], caption: str, *, grey: bool = False
) -> Table:
    """Trials with their values, those off the front in grey if asked for."""
    head = ["trial", "setting", *(study.headings[key] for key in study.columns)]
    head += ["seeds", f"{difference_unit(study)} from the chosen", ""]
    rows = []
    for trial in shown[:MOST_ROWS]:
        chosen = trial.trial_id == study.chosen
        marks = ["chosen"] * chosen + ["front"] * trial.on_front + ["baseline"] * trial.baseline
        marks += ["tied"] * (trial.difference is not None and trial.difference.tied)
        cells = [trial.trial_id, trial.label, *(trial.cells[key] for key in study.columns)]
        cells += [str(trial.seeds), difference_text(study, trial.difference), ", ".join(marks)]
        faint = grey and not trial.on_front
        rows.append(Row(cells=cells, kind="chosen" if chosen else "faint" if faint else "plain"))
    left = len(shown) - len(rows)
    caption += f" {left} more rows are in front.csv." * (left > 0)
    numbers = range(2, len(head) - 1)
    return Table(head=head, rows=rows, numbers=numbers, caption=caption)

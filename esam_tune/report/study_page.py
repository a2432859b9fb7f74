"""The report of a study: question, answer, and what they rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isfinite

from esam_tune import metrics as keys
from esam_tune.report.answer import answer, baselines_cost, uncertainty
from esam_tune.report.blocks import (
    Block,
    Code,
    Facts,
    Gallery,
    Page,
    Paragraph,
    Picture,
    Row,
    Section,
    Table,
)
from esam_tune.report.front_section import MOST_ROWS, front_section, trials_table
from esam_tune.report.panels import Plot, panel_figure
from esam_tune.report.parameter_plots import importance, parallel, slices
from esam_tune.report.plots import costs, curve_trials, curves, hypervolume
from esam_tune.report.study import Study
from esam_tune.report.vector import inline_svg

# Below this many trials importance is a hint.
_FEW_TRIALS = 30


def study_page(study: Study, scaling: Sequence[Section] = (), made: str = "") -> Page:
    """The page of a study.

    Args:
        study: so far.
        scaling: sections on how its settings scale over workers, if that was studied.
        made: when and by what the page is made, for its last line.
    """
    makers: tuple[Callable[[Study], Section | None], ...] = (
        _answer,
        front_section,
        _baselines,
        _parameters,
        _cost,
        _course,
    )
    sections = [section for make in makers if (section := make(study)) is not None]
    sections += [*scaling, _failures(study), _reproduction(study)]
    return Page(title=study.name, subtitle="Study report", sections=sections, footer=made)


def _answer(study: Study) -> Section:
    blocks = [
        Paragraph(text=study.question),
        Paragraph(text=" ".join(study.setup), kind="note"),
        Paragraph(text=answer(study), kind="lead"),
        Paragraph(text=_progress(study)),
        Paragraph(text=uncertainty(study), kind="note"),
    ]
    return Section(key="answer", title="Question and answer", blocks=_said(blocks))


def _progress(study: Study) -> str:
    """How far the study is, where it has not come to its end."""
    searched = sum(not trial.baseline for trial in study.trials)
    states = {
        "interrupted": "The study was interrupted",
        "unfinished": "The study has no recorded end: it is running, or its process died",
        "failed": "The study failed",
    }
    if study.state not in states:
        return ""
    return f"{states[study.state]}; {searched} of {study.budget} search trials have begun."


def _baselines(study: Study) -> Section | None:
    baselines = [trial for trial in study.trials if trial.baseline]
    if not baselines:
        return None
    complete = [trial for trial in baselines if trial.state == "complete"]
    complete.sort(key=lambda trial: trial.values[study.cost])
    blocks: list[Block] = [Paragraph(text=baselines_cost(study))]
    if complete:
        words = "Settings that run in every such study, by cost."
        blocks.append(trials_table(study, complete, words))
    lacking = [
        f"{trial.label} {'is running' if trial.state == 'running' else trial.state}"
        for trial in baselines
        if trial.state != "complete"
    ]
    blocks.append(Paragraph(text="; ".join(lacking) + "." if lacking else "", kind="note"))
    return Section(key="baselines", title="What the baselines cost", blocks=_said(blocks))


def _parameters(study: Study) -> Section | None:
    weights = importance(study)
    few = study.importances and study.importances[0].trials < _FEW_TRIALS
    hint = " From so few trials this is a hint, no more." if few else ""
    count = study.importances[0].trials if study.importances else 0
    blocks = [
        *_gallery(
            weights,
            f"Of {count} trials: the share of each objective's variation over the whole space that "
            "a parameter explains (fANOVA), and the share in what sets the best trials apart "
            f"(PED-ANOVA). Where the two disagree, the trials do not tell.{hint}",
        ),
        *_gallery(
            slices(study),
            "The search trials by one parameter at a time, with the front in blue and the chosen "
            "setting ringed. What another parameter does shows as scatter.",
        ),
        *_gallery(
            parallel(study),
            "Each search trial as a line through its parameters and what came of them: the front "
            "in blue, the chosen setting dashed. Lines that run together are settings alike.",
        ),
    ]
    if weights is None and blocks:
        words = "Too few complete trials, or too little difference, to weigh the parameters."
        blocks.insert(0, Paragraph(text=words, kind="note"))
    if not blocks:
        return None
    return Section(key="parameters", title="What the parameters do", blocks=blocks)


def _cost(study: Study) -> Section | None:
    shown = [*study.front, *study.off_front]
    known = [trial for trial in shown if isfinite(trial.values[keys.STEP_FLOPS_RATIO])]
    if not known:
        return None
    rows = [
        Row(
            cells=[
                trial.trial_id,
                trial.label,
                "" if trial.predicted_cost is None else f"{trial.predicted_cost:.2f}",
                trial.cells[keys.STEP_FLOPS_RATIO],
                trial.cells[keys.STEP_TIME_RATIO],
            ],
            kind="chosen" if trial.trial_id == study.chosen else "plain",
        )
        for trial in known[:MOST_ROWS]
    ]
    table = Table(
        head=["trial", "setting", "predicted FLOPs", "counted FLOPs", "measured time"],
        rows=rows,
        numbers=range(2, 5),
        caption="A step's cost over the base optimizer's: by the cost model before anything runs, "
        "counted in the run, and timed beside base steps on the same machine.",
    )
    caption = (
        "On the dotted line time costs what arithmetic does; above it each pass has a price of "
        "its own. Squares are baselines, blue is the front."
    )
    blocks = [*_gallery(costs(study), caption), table]
    return Section(key="cost", title="Cost, predicted and measured", blocks=blocks)


def _course(study: Study) -> Section | None:
    several = any(len(trial.curves) > 1 for trial in curve_trials(study))
    thin = " Thin lines are single seeds, thick ones their mean." if several else ""
    blocks = [
        *_gallery(
            hypervolume(study),
            "The share of the box between the worst and the best value of each objective that the "
            "front so far dominates. A line that has been flat for long says that more trials of "
            "this kind would find little more. Shares of two studies cannot be compared.",
        ),
        *_gallery(
            curves(study),
            f"Of the chosen setting and of others along the front, by epoch.{thin} The axis is cut "
            "to what the curves reach after a fifth of the epochs.",
        ),
    ]
    return Section(key="course", title="How the search went", blocks=blocks) if blocks else None


def _failures(study: Study) -> Section:
    broken = [trial for trial in study.trials if trial.state in ("failed", "pruned")]
    title = "Trials without a result"
    if not broken:
        words = "None: no trial failed, and none was stopped early."
        return Section(key="failures", title=title, blocks=[Paragraph(text=words)])
    rows = [
        Row(cells=[t.trial_id, t.label, "stopped early" if t.state == "pruned" else t.state,
                   t.reason or ""])
        for t in broken[:MOST_ROWS]
    ]  # fmt: skip
    left = len(broken) - len(rows)
    caption = f"{left} more are left out." if left else ""
    table = Table(head=["trial", "setting", "state", "why"], rows=rows, caption=caption)
    return Section(key="failures", title=title, blocks=[table])


def _reproduction(study: Study) -> Section:
    words = (
        "With one trial at a time the same seed proposes the same settings; with more, what the "
        "sampler knows depends on which trial ends first."
    )
    blocks: list[Block] = [Code(text=typed, title=f"To {what}:") for what, typed in study.commands]
    blocks += [
        Paragraph(text=words, kind="note"),
        Facts(pairs=[*study.origin, ("study time", _clock(study.seconds))]),
        Code(text=study.space, title=f"The space file, {study.name}.yaml", folded=True),
    ]
    return Section(key="reproduce", title="How to reproduce it", blocks=blocks)


def _gallery(plot: Plot | None, caption: str) -> list[Block]:
    """A plot's panels side by side, each small enough for a phone."""
    if plot is None:
        return []
    name = plot.name.replace("_", "-")
    pictures = [
        Picture(
            svg=inline_svg(
                panel_figure(plot, number),
                name=f"{name}-{number}",
                description=f"{plot.title}, panel {number + 1} of {len(plot.panels)}",
            )
        )
        for number in range(len(plot.panels))
    ]
    return [Gallery(pictures=pictures, caption=f"{plot.title}. {caption}")]


def _said(blocks: Iterable[Block]) -> list[Block]:
    """The blocks without paragraphs that say nothing."""
    return [block for block in blocks if not isinstance(block, Paragraph) or block.text]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

"""What a study answers, in sentences that say how sure they are."""

from __future__ import annotations

from esam_tune import metrics as keys
from esam_tune.report.study import Difference, Study, Trial

# Of metric: how a sentence says its value.
_PHRASES = {
    keys.VAL_ACCURACY: "a validation accuracy of {}",
    keys.STEP_FLOPS_RATIO: "{} times the base optimizer's step in counted FLOPs",
    keys.STEP_TIME_RATIO: "{} times the base optimizer's step in measured time",
}


def answer(study: Study) -> str:
    """The answer in a sentence: the chosen setting, beside the best baseline."""
    choice, rival = study.choice, study.rival
    if choice is None:
        return _no_answer(study)
    reached = (
        f"{choice.label} reaches {_phrase(study, choice, study.accuracy)} "
        f"at {_phrase(study, choice, study.cost)}"
    )
    if choice.baseline:
        return f"{reached}: a baseline is the {study.rule} of the front, not a search trial."
    if rival is None:
        return f"{reached}; no baseline has a result to compare it with."
    beside = (
        f"{_rival(study)}, {rival.label}, reaches "
        f"{rival.cells[study.accuracy]} at {rival.cells[study.cost]}"
    )
    return f"{reached}; {beside}{_compared(study, rival.difference)}."


def uncertainty(study: Study) -> str:
    """How sure the answer is: intervals over the seeds, or that there was one seed."""
    choice = study.choice
    if choice is None:
        return ""
    if choice.seeds < 2:
        return (
            "It ran under one seed, so there is no interval: how much of a difference is luck "
            "cannot be said, and small ones between neighbours are noise. More seeds: esam-tune "
            f"refine {study.name} --seeds 3."
        )
    name = _name(study)
    tied = [
        trial.trial_id
        for trial in study.complete
        if trial.difference is not None and trial.difference.tied
    ]
    told = (
        f"Its {name} cannot be told apart from that of trial{'s' * (len(tied) > 1)} "
        f"{', '.join(tied)}."
        if tied
        else f"It can be told apart in {name} from every other setting that shares its seeds."
    )
    return (
        f"± is half the width of the 95 % interval of a mean over {choice.seeds} seeds. {told} "
        "Differences are taken seed by seed; each comparison stands alone, so of twenty truly "
        "equal settings about one is told apart."
    )


def baselines_cost(study: Study) -> str:
    """What the chosen setting saves beside the best baseline, in a sentence."""
    choice, rival = study.choice, study.rival
    if choice is None or rival is None or choice.baseline:
        return ""
    ours, theirs = choice.values[study.cost], rival.values[study.cost]
    if study.cost not in keys.COST_METRICS or theirs <= 1.0 or ours < 1.0:
        return ""
    # Of the base optimizer's step everyone pays 1: what is saved is what comes on top of it.
    share = (ours - 1.0) / (theirs - 1.0)
    return (
        f"On top of a base step, {rival.label} pays {theirs - 1.0:.2f} and the chosen setting "
        f"{ours - 1.0:.2f} steps: {share:.0%} of it."
    )


def difference_text(study: Study, difference: Difference | None) -> str:
    """A difference in accuracy with its interval, in :func:`difference_unit`, for a table."""
    if difference is None:
        return ""
    mean = _delta(study, difference.mean)
    if difference.interval is None:
        return mean
    low, high = (_delta(study, end) for end in difference.interval)
    return f"{mean} ({low} to {high})"


def difference_unit(study: Study) -> str:
    """The unit of differences in accuracy: points of per cent, or the metric's own."""
    return "points" if study.accuracy == keys.VAL_ACCURACY else study.headings[study.accuracy]


def _no_answer(study: Study) -> str:
    running = sum(trial.state == "running" for trial in study.trials)
    if study.complete:
        return f"No answer: no complete trial keeps {' and '.join(study.constraints)}."
    if running:
        return f"No answer yet: {running} trials are under way, and none has reached its end."
    return "No answer: no trial has reached its end."


def _phrase(study: Study, trial: Trial, metric: str) -> str:
    name = study.headings.get(metric, metric)
    return _PHRASES.get(metric, f"{name} {{}}").format(trial.cells[metric])


def _name(study: Study) -> str:
    """What is raised, in words: an accuracy, or another metric by its own name."""
    return "accuracy" if study.accuracy == keys.VAL_ACCURACY else study.headings[study.accuracy]


def _rival(study: Study) -> str:
    if study.accuracy == keys.VAL_ACCURACY:
        return "the most accurate baseline"
    return f"the baseline that is best in {_name(study)}"


def _compared(study: Study, difference: Difference | None) -> str:
    if difference is None:
        return ""
    unit = difference_unit(study)
    less = f"a difference of {_delta(study, difference.mean)} {unit}"
    if difference.interval is None:
        return f" ({less}, under one common seed)"
    low, high = (_delta(study, end) for end in difference.interval)
    verdict = "which cannot be told apart" if difference.tied else "which is more than noise"
    interval = f"95 % interval {low} to {high} over {difference.seeds} seeds"
    return f" ({less}, {interval}, {verdict})"


def _delta(study: Study, value: float) -> str:
    text = f"{100 * value:+.1f}" if study.accuracy == keys.VAL_ACCURACY else f"{value:+.3g}"
    return text.replace("-", "\N{MINUS SIGN}")

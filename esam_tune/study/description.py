"""A study in Markdown, as its run's description on the tracking server."""

from __future__ import annotations

import re

from esam_tune import metrics as keys
from esam_tune.pareto_front import Rule
from esam_tune.study.front_table import SHORT_NAMES, format_mean
from esam_tune.study.record import StudyRecord
from esam_tune.study.trial_record import TrialRecord

_ROWS = 20
_WORDS = {"max": "maximise", "min": "minimise"}


def describe_study(record: StudyRecord, rule: Rule) -> str:
    """The question, how far the study is, the front with the baselines, and the choice.

    What users typed is escaped: it shows as they typed it, and cannot become markup.

    Args:
        record: of the study.
        rule: by which a setting is chosen.
    """
    chosen = record.pick(rule)
    parts = [f"**Question.** {escape_markdown(record.spec.description or record.spec.name)}"]
    # The answer first: MLflow folds a description after a few lines.
    if chosen is not None:
        parts.append(_choice(record, chosen, rule))
    elif record.complete:
        parts.append("**Chosen.** None: no complete trial keeps the constraints.")
    parts += [_search(record), _progress(record)]
    if record.complete:
        parts.append(_table(record, chosen))
    if chosen is not None:
        parts.append(_commands(record, rule))
    return "\n\n".join(parts) + "\n"


def escape_markdown(text: str) -> str:
    """Text on one line that Markdown shows as it is, without markup, links or HTML."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_{}\[\]()#+\-.!|~])", r"\\\1", line)
    # A colon makes an address a link, and not every Markdown has an escape for it.
    return line.replace(":", "&#58;")


def _search(record: StudyRecord) -> str:
    spec = record.spec
    goals = " and ".join(f"{_WORDS[way]} `{key}`" for key, way in spec.objectives.items())
    bounds = " and ".join(f"`{c.metric} {c}`" for c in spec.constraints)
    noise = f" with {spec.task.label_noise:.0%} wrong labels" if spec.task.label_noise else ""
    return (
        f"**Search.** {goals.capitalize()}{f', subject to {bounds}' if bounds else ''}: "
        f"`{spec.task.model}` on `{spec.task.dataset}`{noise}, {spec.training.epochs} epochs "
        f"a trial."
    )


def _progress(record: StudyRecord) -> str:
    trials = list(record.trials.values())
    searched = sum(not trial.baseline for trial in trials)
    baselines = len(trials) - searched
    counts = {
        state: sum(trial.state == state for trial in trials)
        for state in ("complete", "running", "pruned", "failed")
    }
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return (
        f"**Trials.** {searched} of {record.spec.trials} search trials and {baselines} "
        f"baseline{'s' * (baselines != 1)} begun: {states or 'none yet'}."
    )


def _table(record: StudyRecord, chosen: TrialRecord | None) -> str:
    spec = record.spec
    front = record.front()
    ids = {trial.trial_id for trial in front}
    rest = [trial for trial in record.complete if trial.baseline and trial.trial_id not in ids]
    rest.sort(key=lambda trial: trial.values([spec.cost_metric])[0])
    columns = list(dict.fromkeys([*spec.objectives, *keys.COST_METRICS]))
    names = [SHORT_NAMES.get(key, key) for key in columns]
    lines = [
        f"| trial | setting | {' | '.join(names)} | seeds | |",
        f"|---|---|{'---:|' * len(columns)}---:|---|",
    ]
    for trial in [*front[:_ROWS], *rest[:_ROWS]]:
        words = ["**chosen**"] * (trial is chosen)
        words += ["front"] * (trial.trial_id in ids) + ["baseline"] * trial.baseline
        cells = [
            trial.trial_id,
            escape_markdown(trial.label),
            *(format_mean(trial, key) for key in columns),
            str(len(trial.complete_runs)),
            ", ".join(words),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    left = max(0, len(front) - _ROWS)
    note = f"\n\n{left} more trials are on the front: see `front.csv`." if left else ""
    several = any(len(trial.complete_runs) > 1 for trial in (*front, *rest))
    spread = "\n\n± is half the width of the mean's 95 % interval over the seeds." * several
    return "**Pareto front**, and below it the baselines that are not on it\n\n" + (
        "\n".join(lines) + note + spread
    )


def _choice(record: StudyRecord, chosen: TrialRecord, rule: Rule) -> str:
    tied = [trial.trial_id for trial in record.tied_with(chosen)]
    known = chosen.interval(record.spec.accuracy_metric) is not None
    noise = (
        f" Its accuracy cannot be told apart from that of {', '.join(tied)}."
        if tied
        else ""
        if known
        else " It ran under one seed: small differences between neighbours are noise."
    )
    setting = f"trial {chosen.trial_id}, {escape_markdown(chosen.label)}"
    reached = " at ".join(
        f"{SHORT_NAMES.get(key, key)} {format_mean(chosen, key)}" for key in record.spec.objectives
    )
    return f"**Chosen** by {rule}: {setting}, with {reached}.{noise}"


def _commands(record: StudyRecord, rule: Rule) -> str:
    return (
        "**Train it**\n\n"
        f"    esam-tune pareto {record.spec.name} --pick {rule} --export settings.yaml\n"
        f"    esam-tune train settings.yaml"
    )

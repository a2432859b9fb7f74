"""The Pareto front as a table, and metrics as a reader wants them."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from esam_tune import metrics as keys
from esam_tune.study.record import StudyRecord
from esam_tune.study.trial_record import TrialRecord

SHORT_NAMES = {
    keys.VAL_ACCURACY: "val acc",
    keys.STEP_FLOPS_RATIO: "FLOPs/SGD",
    keys.STEP_TIME_RATIO: "time/SGD",
    keys.VAL_LOSS: "val loss",
}


def front_table(
    record: StudyRecord,
    *,
    baselines: bool,
    front: list[TrialRecord] | None = None,
    chosen: TrialRecord | None = None,
) -> Table:
    """The Pareto front by cost and, if asked for, the baselines that are not on it.

    Where settings have several seeds, each objective is its mean with half the width of its 95 %
    interval, and settings whose accuracy cannot be told apart from the chosen one's are named.
    """
    spec = record.spec
    front = record.front() if front is None else front
    tied = {t.trial_id for t in record.tied_with(chosen)} if chosen is not None else set()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("")
    table.add_column("trial")
    table.add_column("setting", no_wrap=True)
    columns = list(dict.fromkeys([*spec.objectives, *keys.COST_METRICS]))
    for key in columns:
        table.add_column(SHORT_NAMES.get(key, key), justify="right", no_wrap=True)
    ids = {trial.trial_id for trial in front}
    rest = [t for t in record.complete if baselines and t.baseline and t.trial_id not in ids]
    several = any(len(trial.complete_runs) > 1 for trial in (*front, *rest))
    if several:
        table.add_column("seeds", justify="right")
    table.add_column("", no_wrap=True)

    def row(trial: TrialRecord, mark: str, style: str | None) -> None:
        cells = [format_mean(trial, key) for key in columns]
        if several:
            cells.append(str(len(trial.complete_runs)))
        words = ["baseline"] * trial.baseline + ["tied"] * (trial.trial_id in tied)
        table.add_row(
            mark, trial.trial_id, Text(trial.label), *cells, ", ".join(words), style=style
        )

    for trial in front:
        mark = "*" if chosen is not None and trial.trial_id == chosen.trial_id else ""
        row(trial, mark, None)
    if rest:
        table.add_section()
    for trial in sorted(rest, key=lambda t: t.values([spec.cost_metric])[0]):
        row(trial, "", "dim")
    return table


def format_mean(trial: TrialRecord, key: str) -> str:
    """A metric of a trial, with half its interval's width where that shows."""
    text, interval = format_metric(key, trial.metrics.get(key)), trial.interval(key)
    half = "" if interval is None else format_metric(key, (interval[1] - interval[0]) / 2)
    if not half.strip("0.%"):
        return text
    return f"{text} ± {half}"


def format_metric(key: str, value: float | None) -> str:
    """A metric as a reader wants it: accuracies in per cent, ratios to two places."""
    if value is None:
        return "-"
    if key in (keys.VAL_ACCURACY, keys.TEST_ACCURACY):
        return f"{value:.1%}"
    losses = (keys.VAL_LOSS, keys.TRAIN_LOSS, keys.SHARPNESS)
    return f"{value:.3f}" if key in losses else f"{value:.2f}"

"""What a person sees: the live table while a study runs, and the front at its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from esam_tune import metrics as keys
from esam_tune.study.record import StudyRecord
from esam_tune.study.trial_record import RunRecord, TrialRecord

_REFRESH_SECONDS = 0.5
SHORT_NAMES = {
    keys.VAL_ACCURACY: "val acc",
    keys.STEP_FLOPS_RATIO: "FLOPs/SGD",
    keys.STEP_TIME_RATIO: "time/SGD",
    keys.VAL_LOSS: "val loss",
}


class Progress:
    """Live table on a terminal; elsewhere a line for each trial that ends.

    Args:
        record: of the study, kept up to date by its runner.
        console: on stderr, so that stdout stays free for results.
        to_begin: counts the most runs that may still begin.
    """

    def __init__(self, record: StudyRecord, console: Console, to_begin: Callable[[], int]) -> None:
        self._record = record
        self._console = console
        self._to_begin = to_begin
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._started = time.monotonic()
        self._first_epochs = _epochs(record)
        self._ended = {trial.trial_id for trial in record.finished}
        self._next = 0.0

    def __enter__(self) -> Progress:
        """Show the table."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state of the table on the screen."""
        self.update(now=True)
        if self._live:
            self._live.stop()

    def update(self, *, now: bool = False) -> None:
        """Redraw, at most a few times a second."""
        if not now and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _REFRESH_SECONDS
        if self._live:
            self._live.update(self._table(), refresh=True)
            return
        for trial in self._record.finished:
            if trial.trial_id not in self._ended:
                self._ended.add(trial.trial_id)
                line = f"{self._summary()}  {_outcome(self._record, trial)}"
                self._console.print(line, markup=False)

    def seconds_left(self) -> float | None:
        """Estimate from the epochs trained so far by this process; None before the first.

        It takes what may still begin for granted, so early stopping ends a study before it.
        """
        epochs = self._record.spec.training.epochs
        done = _epochs(self._record) - self._first_epochs
        if not done:
            return None
        left = sum(epochs - run.epochs for run in _open(self._record))
        rate = done / (time.monotonic() - self._started)
        return max(0.0, (left + epochs * self._to_begin()) / rate)

    def _summary(self) -> str:
        runs, left = self._record.runs, self.seconds_left()
        unit = "trials" if len(runs) == len(self._record.trials) else "runs"
        ended = len(runs) - len(_open(self._record))
        return (
            f"{self._record.spec.name}: {ended}/{len(runs) + self._to_begin()} {unit}, "
            f"{_clock(time.monotonic() - self._started)} elapsed, "
            f"{'?' if left is None else _clock(left)} left"
        )

    def _table(self) -> Group:
        running = _open(self._record)
        lines = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for run in running:
            accuracy = run.metrics.get(keys.VAL_ACCURACY)
            lines.add_row(
                run.run_id,
                Text(self._record.trials[run.trial_id].label),
                f"epoch {run.epochs}/{self._record.spec.training.epochs}",
                "" if accuracy is None else f"{accuracy:.1%}",
            )
        return Group(
            Text(self._summary(), style="bold"),
            Text("best accuracy at each cost so far", style="dim"),
            front_table(self._record, baselines=False),
            Text("running", style="dim") if running else Text(""),
            lines,
        )


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
    return f"{value:.3f}" if key in (keys.VAL_LOSS, keys.TRAIN_LOSS) else f"{value:.2f}"


def _outcome(record: StudyRecord, trial: TrialRecord) -> str:
    if trial.state != "complete":
        return f"{trial.trial_id} {trial.label}: {trial.state}, {trial.reason}"
    shown = ", ".join(
        f"{SHORT_NAMES.get(key, key)} {format_metric(key, trial.metrics.get(key))}"
        for key in record.spec.objectives
    )
    return f"{trial.trial_id} {trial.label}: {shown}"


def _open(record: StudyRecord) -> list[RunRecord]:
    return [run for run in record.runs.values() if run.state == "running"]


def _epochs(record: StudyRecord) -> int:
    return sum(run.epochs for run in record.runs.values())


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

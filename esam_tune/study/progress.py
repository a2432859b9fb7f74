"""What a person sees while a study runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from esam_tune import metrics as keys
from esam_tune.study.front_table import SHORT_NAMES, format_metric, front_table
from esam_tune.study.record import StudyRecord
from esam_tune.study.trial_record import RunRecord, TrialRecord

_REFRESH_SECONDS = 0.5


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

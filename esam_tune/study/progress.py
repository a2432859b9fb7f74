"""What a person sees: the live table while a study runs, and the front at its end."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from esam_tune import metrics as keys
from esam_tune.study.record import StudyRecord, TrialRecord

_REFRESH_SECONDS = 0.5
_SHORT = {
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
    """

    def __init__(self, record: StudyRecord, console: Console) -> None:
        self._record = record
        self._console = console
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
        """Estimate from the epochs trained so far by this process; None before the first."""
        spec = self._record.spec
        done = _epochs(self._record) - self._first_epochs
        if not done:
            return None
        failed = sum(
            spec.training.epochs - t.epochs for t in self._record.finished if t.state != "complete"
        )
        total = (spec.trials + len(spec.baselines)) * spec.training.epochs - failed
        rate = done / (time.monotonic() - self._started)
        return max(0.0, (total - _epochs(self._record)) / rate)

    def _summary(self) -> str:
        spec = self._record.spec
        left, total = self.seconds_left(), spec.trials + len(spec.baselines)
        return (
            f"{spec.name}: {len(self._record.finished)}/{total} trials, "
            f"{_clock(time.monotonic() - self._started)} elapsed, "
            f"{'?' if left is None else _clock(left)} left"
        )

    def _table(self) -> Group:
        running = [t for t in self._record.trials.values() if t.state == "running"]
        lines = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for trial in running:
            accuracy = trial.metrics.get(keys.VAL_ACCURACY)
            lines.add_row(
                trial.trial_id,
                Text(trial.label),
                f"epoch {trial.epochs}/{self._record.spec.training.epochs}",
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
    """The Pareto front by cost and, if asked for, the baselines that are not on it."""
    spec = record.spec
    front = record.front() if front is None else front
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("")
    table.add_column("trial")
    table.add_column("setting", no_wrap=True)
    columns = list(dict.fromkeys([*spec.objectives, *keys.COST_METRICS]))
    for key in columns:
        table.add_column(_SHORT.get(key, key), justify="right")
    table.add_column("")

    def row(trial: TrialRecord, mark: str, style: str | None) -> None:
        cells = [format_metric(key, trial.metrics.get(key)) for key in columns]
        kind = "baseline" if trial.baseline else ""
        table.add_row(mark, trial.trial_id, Text(trial.label), *cells, kind, style=style)

    for trial in front:
        mark = "*" if chosen is not None and trial.trial_id == chosen.trial_id else ""
        row(trial, mark, None)
    if baselines:
        ids = {trial.trial_id for trial in front}
        rest = [t for t in record.complete if t.baseline and t.trial_id not in ids]
        if rest:
            table.add_section()
        for trial in sorted(rest, key=lambda t: t.values([spec.cost_metric])[0]):
            row(trial, "", "dim")
    return table


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
        f"{_SHORT.get(key, key)} {format_metric(key, trial.metrics.get(key))}"
        for key in record.spec.objectives
    )
    return f"{trial.trial_id} {trial.label}: {shown}"


def _epochs(record: StudyRecord) -> int:
    return sum(trial.epochs for trial in record.trials.values())


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

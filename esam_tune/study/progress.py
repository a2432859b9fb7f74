"""What a person sees while a study runs: one calm view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

from rich.console import Console
from rich.live import Live

from esam_tune.study.front_table import SHORT_NAMES, format_metric
from esam_tune.study.live_view import LiveView, in_words, summary
from esam_tune.study.outlook import Outlook
from esam_tune.study.record import StudyRecord
from esam_tune.study.trial_record import TrialRecord

_REFRESH_SECONDS = 0.5
# Without a terminal: a line at the latest after so long without an end of a trial.
_QUIET_SECONDS = 300.0


class Progress:
    """A view that is renewed in its place on a terminal; elsewhere a line for each trial that ends.

    On a terminal the view makes room for a last line when the study ends; without one, and where
    trials take long, a line now and then says that they go on.

    Args:
        record: of the study, kept up to date by its runner.
        console: on stderr, so that stdout stays free for results.
        to_begin: counts the most runs that may still begin.
    """

    def __init__(self, record: StudyRecord, console: Console, to_begin: Callable[[], int]) -> None:
        self._record = record
        self._console = console
        self._outlook = Outlook(record, to_begin)
        self._view = LiveView(record, self._outlook)
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn: list[str] = []
        self._ended = {trial.trial_id for trial in record.finished}
        self._next = 0.0
        self._quiet_since = time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        """Show the view."""
        if self._live is not None:
            self._live.start()
            self._stack.callback(self._live.stop)
            self._stack.enter_context(_log_above_the_view())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave one line of the view on the screen: the result follows."""
        self.update(now=True)
        self._stack.close()
        if self._live is not None:
            self._print(summary(self._record, self._outlook))

    def update(self, *, now: bool = False) -> None:
        """Renew the view, at most a few times a second, and only where it changes."""
        if not now and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _REFRESH_SECONDS
        if self._live is not None:
            self._redraw(self._live)
            return
        for trial in self._record.finished:
            if trial.trial_id not in self._ended:
                self._ended.add(trial.trial_id)
                self._say(_outcome(self._record, trial))
        if time.monotonic() - self._quiet_since >= _QUIET_SECONDS:
            self._say(_under_way(self._record))

    def _redraw(self, live: Live) -> None:
        width, height = self._console.size
        view = self._view.draw(width, height - 1)
        lines = [
            "".join(segment.text for segment in line)
            for line in self._console.render_lines(view, pad=False)
        ]
        if lines != self._drawn:
            self._drawn = lines
            live.update(view, refresh=True)

    def _say(self, what: str) -> None:
        self._quiet_since = time.monotonic()
        left = in_words(self._outlook.left())
        self._print(f"{summary(self._record, self._outlook)}, {left}  {what}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


@contextmanager
def _log_above_the_view() -> Iterator[None]:
    """Let log messages appear above the view: written into it, they would tear it.

    The view has put an object in the place of ``sys.stderr`` that writes above it; handlers made
    before hold the stream that was there.
    """
    before = getattr(sys.stderr, "rich_proxied_file", None)
    moved = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is before
    ]
    for handler in moved:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in moved:
            handler.setStream(before)


def _outcome(record: StudyRecord, trial: TrialRecord) -> str:
    if trial.state != "complete":
        return f"{trial.trial_id} {trial.label}: {trial.state}, {trial.reason}"
    shown = ", ".join(
        f"{SHORT_NAMES.get(key, key)} {format_metric(key, trial.metrics.get(key))}"
        for key in record.spec.objectives
    )
    return f"{trial.trial_id} {trial.label}: {shown}"


def _under_way(record: StudyRecord) -> str:
    running = [run for run in record.runs.values() if run.state == "running"]
    epochs = record.spec.training.epochs
    return "running: " + ", ".join(f"{run.run_id} epoch {run.epochs}/{epochs}" for run in running)

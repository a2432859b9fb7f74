"""What is left of a study that runs: epochs, their cost and their time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from esam_tune import metrics as keys
from esam_tune.study.record import StudyRecord
from esam_tune.study.trial_record import RunRecord


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is still to come, if no run is stopped early.

    Args:
        epochs: of runs under way and of those that may still begin.
        cost: the same by counted cost, in epochs of the base optimizer; None before any is known.
        seconds: at this process' pace so far; None before its first epoch.
    """

    epochs: int
    cost: float | None
    seconds: float | None


class Outlook:
    """Follows a study's pace.

    An epoch weighs as much as its trial's step is dear: baselines come first, and a minute of SGD
    says little of a minute of SAM. What has not begun, or not been measured, weighs as the mean of
    the epochs so far.

    Args:
        record: of the study, kept up to date by who runs it.
        to_begin: counts the most runs that may still begin.
    """

    def __init__(self, record: StudyRecord, to_begin: Callable[[], int]) -> None:
        self._record = record
        self._to_begin = to_begin
        self._started = time.monotonic()
        # What an earlier process trained must not make this one look fast.
        self._earlier = {run.run_id: run.epochs for run in record.runs.values()}

    @property
    def to_begin(self) -> int:
        """The most runs that may still begin."""
        return self._to_begin()

    @property
    def elapsed(self) -> float:
        """Seconds since this process began."""
        return time.monotonic() - self._started

    def left(self) -> Left:
        """What is still to come, as far as it can be known now."""
        runs, each = self._record.runs.values(), self._record.spec.training.epochs
        todo = [(run, each - run.epochs) for run in runs if run.state == "running"]
        done = [(run, run.epochs - self._earlier.get(run.run_id, 0)) for run in runs]
        untouched = each * self._to_begin()
        cost = self._mean(keys.STEP_FLOPS_RATIO)
        pace = self._weight(keys.STEP_TIME_RATIO, done) / max(self.elapsed, 1e-9)
        seconds = self._weight(keys.STEP_TIME_RATIO, todo, untouched) / pace if pace else None
        return Left(
            epochs=sum(epochs for _, epochs in todo) + untouched,
            cost=None if cost is None else self._weight(keys.STEP_FLOPS_RATIO, todo, untouched),
            seconds=seconds,
        )

    def _weight(
        self, ratio: str, parts: Iterable[tuple[RunRecord, int]], untouched: int = 0
    ) -> float:
        """Epochs in epochs of the base optimizer, by one of the two measures of a step's cost."""
        mean = self._mean(ratio) or 1.0
        return sum((run.metrics.get(ratio) or mean) * epochs for run, epochs in parts) + (
            mean * untouched
        )

    def _mean(self, ratio: str) -> float | None:
        """Of all epochs trained, those whose step has not been measured left out."""
        known = [
            (value, run.epochs)
            for run in self._record.runs.values()
            if (value := run.metrics.get(ratio)) is not None
        ]
        epochs = sum(count for _, count in known)
        return sum(value * count for value, count in known) / epochs if epochs else None

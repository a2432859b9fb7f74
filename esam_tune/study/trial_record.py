"""What is known of one trial: a setting, and the runs that train it, one a seed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from esam_tune.domains import Value
from esam_tune.failures import tells_divergence
from esam_tune.intervals import Interval, difference_interval, mean_interval, standard_error

State = Literal["running", "complete", "pruned", "failed"]


@dataclass(kw_only=True)
class RunRecord:
    """One training of a trial's setting, under one seed.

    Args:
        run_id: the trial's id for its first run, ``0007-s1`` and so on for the others.
        trial_id: of the trial whose setting it trains.
        seed: of initial weights, batches, augmentation, masks.
        state: ``running`` until its end is recorded.
        reason: why it failed or was stopped, or None.
        metrics: of the last epoch; null where a value is not finite.
        epochs: recorded so far.
        accuracies: the accuracy that picks go by after each of them; None where it is not finite.
        checkpoints: paths, oldest first.
        group: workers that train it now, as an elastic trial reported, or None.
        workers: those that trained its last epoch, likewise.
    """

    run_id: str
    trial_id: str
    seed: int
    state: State = "running"
    reason: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    epochs: int = 0
    accuracies: list[float | None] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    group: int | None = None
    workers: int | None = None

    @property
    def first(self) -> bool:
        """Whether it is the run that its trial began with."""
        return self.run_id == self.trial_id

    @property
    def diverged(self) -> bool:
        """Whether it failed over a value that is no number, not over a lost process."""
        return self.state == "failed" and tells_divergence(self.reason or "")

    def values(self, metrics: Iterable[str]) -> list[float]:
        """Values of metrics in their own units; NaN where missing or not finite."""
        return [_number(self.metrics.get(key)) for key in metrics]


@dataclass(kw_only=True)
class TrialRecord:
    """One trial as the journal tells it: a setting with all its runs.

    Args:
        trial_id: numbered in the order of starting.
        label: the trial's name for people.
        params: its parameters, ``optimizer`` among them.
        baseline: whether it runs outside the search's budget.
        optuna_number: of the proposal, or None for a baseline.
        seeds: runs that the study asks for of each setting.
        runs: begun so far, in the order of starting; more than ``seeds`` after ``refine``.
    """

    trial_id: str
    label: str
    params: dict[str, Value]
    baseline: bool
    optuna_number: int | None
    seeds: int
    runs: list[RunRecord]

    @property
    def complete_runs(self) -> list[RunRecord]:
        """Runs trained to the end with finite objectives."""
        return [run for run in self.runs if run.state == "complete"]

    @property
    def state(self) -> State:
        """What became of the setting.

        It is complete when the runs that the study asked for are, and failed when one of those
        failed or when any run diverged: a setting that works under some seeds only is no setting
        to recommend. A later run that was lost with its process changes nothing.
        """
        first = self.runs[0]
        if first.state in ("pruned", "failed"):
            return first.state
        if self._failed_run is not None:
            return "failed"
        asked = self.runs[: self.seeds]
        done = len(asked) == self.seeds and all(run.state == "complete" for run in asked)
        return "complete" if done else "running"

    @property
    def reason(self) -> str | None:
        """Why it failed or was stopped, or None."""
        if self.runs[0].reason is not None:
            return self.runs[0].reason
        failed = self._failed_run
        return None if failed is None else f"seed {failed.seed}: {failed.reason}"

    @property
    def diverged(self) -> bool:
        """Whether any of its runs did."""
        return any(run.diverged for run in self.runs)

    @property
    def _failed_run(self) -> RunRecord | None:
        asked = [run for run in self.runs[: self.seeds] if run.state == "failed"]
        return next(iter([*asked, *(run for run in self.runs if run.diverged)]), None)

    @property
    def metrics(self) -> dict[str, float | None]:
        """Of the last epoch: means over the complete runs; until one is, those of the first."""
        runs = self.complete_runs
        if len(runs) < 2:
            return (runs or self.runs)[0].metrics
        means: dict[str, float | None] = {}
        for key in runs[0].metrics:
            values = [run.metrics.get(key) for run in runs]
            known = [value for value in values if value is not None]
            means[key] = fmean(known) if len(known) == len(values) else None
        return means

    @property
    def epochs(self) -> int:
        """Recorded so far, of all its runs."""
        return sum(run.epochs for run in self.runs)

    @property
    def workers(self) -> int | None:
        """Workers that trained its first run's last epoch, where that may change, or None."""
        return self.runs[0].workers

    def values(self, metrics: Iterable[str]) -> list[float]:
        """Values of metrics in their own units; NaN where missing or not finite."""
        known = self.metrics
        return [_number(known.get(key)) for key in metrics]

    def by_seed(self, metric: str) -> dict[int, float]:
        """Each complete run's value of a metric, by its seed; what is not finite is left out."""
        known = {run.seed: run.metrics.get(metric) for run in self.complete_runs}
        return {seed: value for seed, value in known.items() if value is not None}

    def stderr(self, metric: str) -> float | None:
        """Standard error of a metric's mean over the seeds; None for fewer than two."""
        return standard_error(list(self.by_seed(metric).values()))

    def interval(self, metric: str) -> Interval | None:
        """The 95 % interval of a metric's mean over the seeds; None for fewer than two."""
        return mean_interval(list(self.by_seed(metric).values()))

    def tied_with(self, other: TrialRecord, metric: str) -> bool | None:
        """Whether two settings cannot be told apart by a metric, on the seeds that both ran.

        None with fewer than two common seeds, which cannot say.
        """
        interval = difference_interval(self.by_seed(metric), other.by_seed(metric))
        return None if interval is None else interval[0] <= 0.0 <= interval[1]


def _number(value: float | None) -> float:
    return math.nan if value is None else value

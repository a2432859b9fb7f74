"""What a study runs next: baselines, proposals, and further seeds of what has come so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from esam_tune.domains import Value
from esam_tune.study.proposals import Proposals
from esam_tune.study.record import StudyRecord
from esam_tune.study.spec import describe_params
from esam_tune.study.trial_record import RunRecord, TrialRecord


@dataclass(frozen=True, kw_only=True)
class NewTrial:
    """A setting to begin with.

    Args:
        label: for people.
        params: complete.
        baseline: whether it runs outside the search's budget.
        optuna_number: of the proposal, or None for a baseline.
    """

    label: str
    params: dict[str, Value]
    baseline: bool
    optuna_number: int | None


@dataclass(frozen=True, kw_only=True)
class NewSeed:
    """A setting to train once more, under a seed that it has not had."""

    trial: TrialRecord


class Agenda(Protocol):
    """Decides what comes next."""

    @property
    def unfinished(self) -> list[RunRecord]:
        """Runs of an earlier process to go on with first."""

    @property
    def most(self) -> int:
        """The most runs that may still begin."""

    @property
    def waits(self) -> bool:
        """Whether runs under way may bring more to do, though there is nothing now."""

    def next(self, trial_id: str) -> NewTrial | NewSeed | None:
        """What to begin now, or None.

        Args:
            trial_id: that a new trial will have.
        """

    def ended(self, run: RunRecord) -> None:
        """Take note of the end of a run."""


class SearchAgenda:
    """A sweep: further seeds of what was trained to its end, baselines, then proposals.

    A setting's further seeds begin when its first run is complete, so that one which is stopped
    early or fails costs no more than that.

    Args:
        record: of the study, kept up to date by who runs it.
        proposals: the sampler.
    """

    def __init__(self, record: StudyRecord, proposals: Proposals) -> None:
        self._record = record
        self._proposals = proposals
        started = {trial.label for trial in record.trials.values() if trial.baseline}
        self._baselines = deque(b for b in record.spec.baselines if b.label not in started)
        self._due = deque(
            trial
            for trial in record.trials.values()
            if trial.runs[0].state == "complete"
            for _ in range(trial.seeds - len(trial.runs))
        )
        self.unfinished = [run for run in record.runs.values() if _open(run)]
        # First runs under way, whose setting's further seeds may follow.
        self._first = {run.run_id for run in self.unfinished if run.first}
        self._exhausted = False

    @property
    def most(self) -> int:
        """The most runs that may still begin."""
        settings = len(self._baselines) + max(0, self._record.remaining)
        seeds = self._record.spec.seeds
        return len(self._due) + settings * seeds + len(self._first) * (seeds - 1)

    @property
    def waits(self) -> bool:
        """Whether a first run under way may bring further seeds."""
        return bool(self._first) and self._record.spec.seeds > 1

    def next(self, trial_id: str) -> NewTrial | NewSeed | None:
        """What to begin now, or None."""
        while self._due:
            trial = self._due.popleft()
            if trial.state != "failed":
                return NewSeed(trial=trial)
        begun = self._begin(trial_id)
        if begun is not None:
            self._first.add(trial_id)
        return begun

    def _begin(self, trial_id: str) -> NewTrial | None:
        if self._baselines:
            baseline = self._baselines.popleft()
            params = dict(baseline.params)
            return NewTrial(label=baseline.label, params=params, baseline=True, optuna_number=None)
        if self._record.remaining <= 0 or self._exhausted:
            return None
        index = self._record.spec.trials - self._record.remaining
        proposed = self._proposals.ask(index, trial_id)
        if proposed is None:
            self._exhausted = True
            return None
        number, params = proposed
        label = describe_params(params)
        return NewTrial(label=label, params=params, baseline=False, optuna_number=number)

    def ended(self, run: RunRecord) -> None:
        """Queue the further seeds of a setting whose first run is complete; tell the sampler."""
        trial = self._record.trials[run.trial_id]
        self._first.discard(run.run_id)
        if run.first and run.state == "complete":
            self._due.extend([trial] * (trial.seeds - len(trial.runs)))
        if trial.state != "running":
            self._proposals.tell(trial)


class RefineAgenda:
    """More seeds for the front and the baselines, until the front's members all have them.

    A setting that was lucky under its one seed may leave the front as its mean comes down, and
    others come in, which get their seeds in turn; so it ends with a front of which every member has
    been run as often.

    Args:
        record: of the study, kept up to date by who runs it.
        seeds: that each is to have.
    """

    def __init__(self, record: StudyRecord, seeds: int) -> None:
        self._record = record
        self._seeds = seeds
        # What a sweep left in its middle stays for the sweep's own --resume.
        self.unfinished = [run for run in record.runs.values() if _open(run) and not run.first]
        self._under_way = {run.run_id for run in self.unfinished}
        # A seed that is lost with its process is replaced by the next call, not for ever by this.
        self._lost: dict[str, int] = {}

    @property
    def most(self) -> int:
        """The most runs that may still begin: every trial that may come onto the front.

        Those are the complete ones, and those that a run under way may make complete.
        """
        trials = self._record.trials.values()
        may = (t for t in trials if t.state == "complete" or self._is_under_way(t))
        return sum(max(0, self._lacking(trial)) for trial in may)

    @property
    def waits(self) -> bool:
        """Whether a run under way may change the front."""
        return bool(self._under_way)

    def next(self, trial_id: str) -> NewSeed | None:
        """The front's or a baseline's next seed, or None."""
        for trial in self._candidates():
            if self._lacking(trial) > 0:
                self._under_way.add(f"{trial.trial_id}-s{len(trial.runs)}")
                return NewSeed(trial=trial)
        return None

    def _is_under_way(self, trial: TrialRecord) -> bool:
        return any(run.run_id in self._under_way for run in trial.runs)

    def _candidates(self) -> Iterator[TrialRecord]:
        yield from self._record.front()
        yield from (trial for trial in self._record.complete if trial.baseline)

    def _lacking(self, trial: TrialRecord) -> int:
        have = sum(run.state == "complete" or _open(run) for run in trial.runs)
        return self._seeds - have - self._lost.get(trial.trial_id, 0)

    def ended(self, run: RunRecord) -> None:
        """Take note of the end of a run."""
        self._under_way.discard(run.run_id)
        if run.state != "complete":
            self._lost[run.trial_id] = self._lost.get(run.trial_id, 0) + 1


def _open(run: RunRecord) -> bool:
    return run.state == "running"

"""A study in motion: which trial comes next, and what is recorded of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from esam_tune import journal
from esam_tune import metrics as keys
from esam_tune.checkpoint_storage import holds_checkpoint
from esam_tune.domains import Value
from esam_tune.journal import Event, Journal
from esam_tune.metrics import reported
from esam_tune.study.proposals import Proposals
from esam_tune.study.record import State, StudyRecord, TrialRecord
from esam_tune.study.spec import describe_params
from esam_tune.trial import CHECKPOINT_PATH, FAILURE, WORKERS, RunRequest
from esam_tune.worker_scaling import BatchSetup


class StudyRun:
    """The study in motion: starts trials, records their reports and keeps Optuna informed.

    Args:
        record: what is known so far; kept up to date.
        writer: of the study's journal.
        proposals: the sampler.
        request: a run request whose settings, id and checkpoint each trial replaces.
        stopped: why early stopping ended a trial, or None for one that it let go on.
    """

    def __init__(
        self,
        record: StudyRecord,
        writer: Journal,
        proposals: Proposals,
        request: RunRequest,
        stopped: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self.record = record
        self._writer = writer
        self._proposals = proposals
        self.request = request
        self._failures: dict[str, str] = {}
        self._stopped: set[str] = set()
        self._reason = stopped
        self._workers: dict[str, int] = {}
        started = {trial.label for trial in record.trials.values() if trial.baseline}
        self._unfinished = [t for t in record.trials.values() if t.state == "running"]
        self._baselines = [b for b in record.spec.baselines if b.label not in started]

    @property
    def remaining(self) -> int:
        """Trials still to be handed out, unfinished ones of an earlier process included."""
        return len(self._unfinished) + len(self._baselines) + max(0, self.record.remaining)

    def end_stopped(self) -> None:
        """End the trials that an earlier process had stopped, but died before it recorded that."""
        for trial in [t for t in self._unfinished if self._reason(t.trial_id)]:
            self._unfinished.remove(trial)
            self.stop(trial.trial_id)
            self.end(trial.trial_id)

    def next_request(self) -> RunRequest | None:
        """Hand out the next trial: unfinished ones first, then baselines, then proposals."""
        if self._unfinished:
            return self._request_for(self._unfinished.pop(0))
        if self._baselines:
            baseline = self._baselines.pop(0)
            return self._start(baseline.label, dict(baseline.params), baseline=True, number=None)
        if self.record.remaining > 0:
            index = self.record.spec.trials - self.record.remaining
            proposed = self._proposals.ask(index, self._next_id())
            if proposed is None:
                return None
            number, params = proposed
            return self._start(describe_params(params), params, baseline=False, number=number)
        return None

    def report(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record an epoch; one that an earlier process already recorded is passed over.

        A worker group that lost its driver may go on an epoch ahead of what was passed on.
        """
        if FAILURE in result:
            self._failures[trial_id] = result[FAILURE]
            return
        trial = self.record.trials[trial_id]
        if WORKERS in result and self._workers.get(trial_id) != result[WORKERS]:
            self._workers[trial_id] = int(result[WORKERS])
            setup = self._setup(trial.params, self._workers[trial_id])
            self._append(journal.WORKERS, trial_id=trial_id, setup=setup)
        if int(result.get(keys.EPOCH, 0)) > trial.epochs:
            self._append(journal.EPOCH, trial_id=trial_id, metrics=reported(result))
        if CHECKPOINT_PATH in result:
            self.checkpoint(trial_id, result[CHECKPOINT_PATH])

    def checkpoint(self, trial_id: str, path: str) -> None:
        """Record where a trial can be continued from."""
        self._append(journal.CHECKPOINT, trial_id=trial_id, path=path)

    def stop(self, trial_id: str) -> None:
        """Note that the scheduler stops a trial; its end follows."""
        self._stopped.add(trial_id)

    def end(self, trial_id: str, error: str | None = None) -> None:
        """Record the end of a trial and tell the sampler."""
        trial = self.record.trials[trial_id]
        state, reason = self._verdict(trial, error or self._failures.pop(trial_id, None))
        self._append(journal.TRIAL_END, durable=True, trial_id=trial_id, state=state, reason=reason)
        self._proposals.tell(trial)

    def _verdict(self, trial: TrialRecord, failure: str | None) -> tuple[State, str | None]:
        spec = self.record.spec
        if failure:
            return "failed", failure
        values = zip(spec.objectives, trial.values(spec.objectives), strict=True)
        lacking = [key for key, value in values if not math.isfinite(value)]
        if trial.epochs < spec.training.epochs:
            reached = f"after epoch {trial.epochs} of {spec.training.epochs}"
            if trial.trial_id in self._stopped:
                # A value that is no number cannot fall behind: the trial is broken.
                if lacking:
                    return "failed", f"{lacking[0]} is not finite {reached}"
                return "pruned", self._reason(trial.trial_id) or f"stopped early {reached}"
            return "failed", f"ended {reached}"
        if lacking:
            return "failed", f"{lacking[0]} is not finite after the last epoch"
        return "complete", None

    def _start(
        self, label: str, params: dict[str, Value], *, baseline: bool, number: int | None
    ) -> RunRequest:
        trial_id = self._next_id()
        self._append(
            journal.TRIAL_START,
            durable=True,
            trial_id=trial_id,
            label=label,
            params=params,
            baseline=baseline,
            optuna_number=number,
            setup=self._setup(params, self.request.workers),
        )
        return self._request_for(self.record.trials[trial_id])

    def _next_id(self) -> str:
        return f"{len(self.record.trials):04d}"

    def _setup(self, params: Mapping[str, Value], workers: int) -> dict[str, Any]:
        """Batch, learning rate, rho and rows per worker of a trial on so many workers."""
        return asdict(BatchSetup.of(self.record.spec.settings(params, {}), workers))

    def _request_for(self, trial: TrialRecord) -> RunRequest:
        settings = self.record.spec.settings(trial.params, {})
        return RunRequest(
            **{
                **self.request.to_dict(),
                "settings": settings.to_dict(),
                "run_id": trial.trial_id,
                "resume_from": self._newest(trial.checkpoints),
            }
        )

    def _append(self, kind: str, *, durable: bool = False, **content: Any) -> Event:
        event = self._writer.append(kind, durable=durable, **content)
        self.record.apply(event)
        return event

    def _newest(self, checkpoints: list[str]) -> str | None:
        """The newest checkpoint that is still there."""
        where = self.request.storage
        return next((p for p in reversed(checkpoints) if holds_checkpoint(where, p)), None)

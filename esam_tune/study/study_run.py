"""A study in motion: which trial comes next, and what is recorded of each."""

from __future__ import annotations

import logging
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
from esam_tune.study.agenda import Agenda, NewSeed
from esam_tune.study.record import StudyRecord
from esam_tune.study.trial_record import RunRecord, State
from esam_tune.trial import CHECKPOINT_PATH, FAILURE, REFUSED, WORKERS, RunRequest
from esam_tune.worker_scaling import BatchSetup

_log = logging.getLogger(__name__)


class StudyRun:
    """The study in motion: starts runs, records their reports and keeps its agenda informed.

    Args:
        record: what is known so far; kept up to date.
        writer: of the study's journal.
        agenda: what comes next.
        request: a run request whose settings, id and checkpoint each run replaces.
        stopped: why early stopping ended a run, or None for one that it let go on.
    """

    def __init__(
        self,
        record: StudyRecord,
        writer: Journal,
        agenda: Agenda,
        request: RunRequest,
        stopped: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self.record = record
        self._writer = writer
        self._agenda = agenda
        self.request = request
        self._failures: dict[str, str] = {}
        self._stopped: set[str] = set()
        self._reason = stopped
        self._workers: dict[str, int] = {}
        self._unfinished = list(agenda.unfinished)

    @property
    def remaining(self) -> int:
        """The most runs still to be handed out, unfinished ones of an earlier process included."""
        return len(self._unfinished) + self._agenda.most

    @property
    def waits(self) -> bool:
        """Whether a run under way may bring more to hand out, though there is nothing now."""
        return self._agenda.waits

    def end_stopped(self) -> None:
        """End the runs that an earlier process had stopped, but died before it recorded that."""
        for run in [run for run in self._unfinished if self._reason(run.run_id)]:
            self._unfinished.remove(run)
            self.stop(run.run_id)
            self.end(run.run_id)

    def next_request(self) -> RunRequest | None:
        """Hand out the next run, unfinished ones first; None when there is nothing now."""
        if self._unfinished:
            return self._request_for(self._unfinished.pop(0))
        trial_id = f"{len(self.record.trials):04d}"
        begun = self._agenda.next(trial_id)
        if begun is None:
            return None
        if isinstance(begun, NewSeed):
            return self._start_seed(begun)
        return self._start(
            journal.TRIAL_START,
            trial_id,
            begun.params,
            self.record.spec.seed,
            label=begun.label,
            params=begun.params,
            baseline=begun.baseline,
            optuna_number=begun.optuna_number,
        )

    def _start_seed(self, begun: NewSeed) -> RunRequest:
        trial = begun.trial
        return self._start(
            journal.REPLICATE_START,
            f"{trial.trial_id}-s{len(trial.runs)}",
            trial.params,
            # Each setting has the same seeds in the same order, so that settings can be paired.
            self.record.spec.seed + len(trial.runs),
            of=trial.trial_id,
        )

    def _start(
        self, kind: str, run_id: str, params: Mapping[str, Value], seed: int, /, **content: Any
    ) -> RunRequest:
        setup = self._setup(params, self.request.workers)
        self._append(kind, durable=True, trial_id=run_id, seed=seed, setup=setup, **content)
        return self._request_for(self.record.runs[run_id])

    def report(self, run_id: str, result: dict[str, Any]) -> None:
        """Record an epoch; one that an earlier process already recorded is passed over.

        A worker group that lost its driver may go on an epoch ahead of what was passed on.
        """
        if FAILURE in result:
            self._failures[run_id] = result[FAILURE]
            return
        run = self.record.runs[run_id]
        for reason in result.get(REFUSED, ()):
            _log.warning("trial %s goes on from further back: %s", run_id, reason)
        if WORKERS in result and self._workers.get(run_id) != result[WORKERS]:
            self._workers[run_id] = int(result[WORKERS])
            setup = self._setup(self.record.trials[run.trial_id].params, self._workers[run_id])
            self._append(journal.WORKERS, trial_id=run_id, setup=setup)
        if int(result.get(keys.EPOCH, 0)) > run.epochs:
            self._append(journal.EPOCH, trial_id=run_id, metrics=reported(result))
        if CHECKPOINT_PATH in result:
            self.checkpoint(run_id, result[CHECKPOINT_PATH])

    def checkpoint(self, run_id: str, path: str) -> None:
        """Record where a run can be continued from."""
        self._append(journal.CHECKPOINT, trial_id=run_id, path=path)

    def stop(self, run_id: str) -> None:
        """Note that the scheduler stops a run; its end follows."""
        self._stopped.add(run_id)

    def end(self, run_id: str, error: str | None = None) -> None:
        """Record the end of a run and tell the agenda."""
        run = self.record.runs[run_id]
        state, reason = self._verdict(run, error or self._failures.pop(run_id, None))
        self._append(journal.TRIAL_END, durable=True, trial_id=run_id, state=state, reason=reason)
        self._agenda.ended(run)

    def _verdict(self, run: RunRecord, failure: str | None) -> tuple[State, str | None]:
        spec = self.record.spec
        if failure:
            return "failed", failure
        values = zip(spec.objectives, run.values(spec.objectives), strict=True)
        lacking = [key for key, value in values if not math.isfinite(value)]
        if run.epochs < spec.training.epochs:
            reached = f"after epoch {run.epochs} of {spec.training.epochs}"
            if run.run_id in self._stopped:
                # A value that is no number cannot fall behind: the trial is broken.
                lacking = [key for key in lacking if key not in keys.FINAL_METRICS]
                if lacking:
                    return "failed", f"{lacking[0]} is not finite {reached}"
                return "pruned", self._reason(run.run_id) or f"stopped early {reached}"
            return "failed", f"ended {reached}"
        if lacking:
            return "failed", f"{lacking[0]} is not finite after the last epoch"
        return "complete", None

    def _setup(self, params: Mapping[str, Value], workers: int) -> dict[str, Any]:
        """Batch, learning rate, rho and rows per worker of a trial on so many workers."""
        return asdict(BatchSetup.of(self.record.spec.settings(params, {}), workers))

    def _request_for(self, run: RunRecord) -> RunRequest:
        params = self.record.trials[run.trial_id].params
        settings = self.record.spec.settings(params, {}, run.seed)
        return RunRequest(
            **{
                **self.request.to_dict(),
                "settings": settings.to_dict(),
                "run_id": run.run_id,
                "resume_from": self._kept(run.checkpoints),
            }
        )

    def _append(self, kind: str, *, durable: bool = False, **content: Any) -> Event:
        event = self._writer.append(kind, durable=durable, **content)
        self.record.apply(event)
        return event

    def _kept(self, checkpoints: list[str]) -> tuple[str, ...]:
        """The checkpoints that are still there, newest first."""
        where = self.request.storage
        return tuple(path for path in reversed(checkpoints) if holds_checkpoint(where, path))

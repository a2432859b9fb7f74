"""Ray Tune's part: runs the trials of a study and records what they report."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from esam_tune import journal
from esam_tune import metrics as keys
from esam_tune.config import Value
from esam_tune.errors import RunFailedError
from esam_tune.journal import Event, Journal
from esam_tune.metrics import reported
from esam_tune.study.proposals import Proposals
from esam_tune.study.record import State, StudyRecord, TrialRecord
from esam_tune.study.spec import describe_params
from esam_tune.trial import CHECKPOINT_PATH, FAILURE, RunRequest, run_in_group, run_in_process

# A trial whose process or node is lost starts again from its last checkpoint.
_RESTARTS = 2
# The driver of a worker group pins a sliver of the head node; its workers ask for the real thing.
_DRIVER_RESOURCES = {"node:__internal_head__": 0.001}


class StudyInterrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """The study was asked to stop; everything reported is recorded."""


class StudyRun:
    """The study in motion: starts trials, records their reports and keeps Optuna informed.

    Args:
        record: what is known so far; kept up to date.
        writer: of the study's journal.
        proposals: the sampler.
        request: a run request whose settings, id and checkpoint each trial replaces.
    """

    def __init__(
        self, record: StudyRecord, writer: Journal, proposals: Proposals, request: RunRequest
    ) -> None:
        self.record = record
        self._writer = writer
        self._proposals = proposals
        self.request = request
        self._failures: dict[str, str] = {}
        started = {trial.label for trial in record.trials.values() if trial.baseline}
        self._unfinished = [t for t in record.trials.values() if t.state == "running"]
        self._baselines = [b for b in record.spec.baselines if b.label not in started]

    @property
    def remaining(self) -> int:
        """Trials still to be handed out, unfinished ones of an earlier process included."""
        return len(self._unfinished) + len(self._baselines) + max(0, self.record.remaining)

    def next_request(self) -> RunRequest | None:
        """Hand out the next trial: unfinished ones first, then baselines, then proposals."""
        if self._unfinished:
            return self._request_for(self._unfinished.pop(0))
        if self._baselines:
            baseline = self._baselines.pop(0)
            return self._start(baseline.label, dict(baseline.params), baseline=True, number=None)
        if self.record.remaining > 0:
            index = self.record.spec.trials - self.record.remaining
            number, params = self._proposals.ask(index)
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
        if int(result.get(keys.EPOCH, 0)) > trial.epochs:
            self._append(journal.EPOCH, trial_id=trial_id, metrics=reported(result))
        if CHECKPOINT_PATH in result:
            self.checkpoint(trial_id, result[CHECKPOINT_PATH])

    def checkpoint(self, trial_id: str, path: str) -> None:
        """Record where a trial can be continued from."""
        self._append(journal.CHECKPOINT, trial_id=trial_id, path=path)

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
        if trial.epochs < spec.training.epochs:
            return "failed", f"ended after epoch {trial.epochs} of {spec.training.epochs}"
        values = zip(spec.objectives, trial.values(spec.objectives), strict=True)
        lacking = [key for key, value in values if not math.isfinite(value)]
        if lacking:
            return "failed", f"{lacking[0]} is not finite after the last epoch"
        return "complete", None

    def _start(
        self, label: str, params: dict[str, Value], *, baseline: bool, number: int | None
    ) -> RunRequest:
        trial_id = f"{len(self.record.trials):04d}"
        self._append(
            journal.TRIAL_START,
            durable=True,
            trial_id=trial_id,
            label=label,
            params=params,
            baseline=baseline,
            optuna_number=number,
        )
        return self._request_for(self.record.trials[trial_id])

    def _request_for(self, trial: TrialRecord) -> RunRequest:
        settings = self.record.spec.settings(trial.params, {})
        return RunRequest(
            **{
                **self.request.to_dict(),
                "settings": settings.to_dict(),
                "run_id": trial.trial_id,
                "resume_from": _newest(trial.checkpoints),
            }
        )

    def _append(self, kind: str, *, durable: bool = False, **content: Any) -> Event:
        event = self._writer.append(kind, durable=durable, **content)
        self.record.apply(event)
        return event


def _newest(checkpoints: list[str]) -> str | None:
    """The newest checkpoint whose folder is still there."""
    return next((path for path in reversed(checkpoints) if Path(path).is_dir()), None)


class _StudySearcher(Searcher):
    """Hands the study's trials to Tune."""

    def __init__(self, run: StudyRun) -> None:
        super().__init__()
        self._run = run

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        request = self._run.next_request()
        return Searcher.FINISHED if request is None else request.to_dict()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: the recorder, which also knows why a trial failed, tells the sampler."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to do: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to do: the journal is the state."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files out of Tune's own snapshots, which are never read."""
        return {}


class _Recorder(tune.Callback):
    """Passes Tune's events on to the study."""

    def __init__(self, run: StudyRun, on_step: Callable[[], None]) -> None:
        self._run = run
        self._on_step = on_step

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._run.report(trial.config["run_id"], result)

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any
    ) -> None:
        self._run.checkpoint(trial.config["run_id"], checkpoint.path)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._run.end(trial.config["run_id"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._run.end(trial.config["run_id"], error=_reason(trial))

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._on_step()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files out of Tune's own snapshots, which are never read."""
        return {}


def _reason(trial: Any) -> str:
    """One line that says why Tune gave a trial up."""
    error = trial.get_error()
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else "the trial's process was lost"


def run_trials(
    run: StudyRun, folder: Path, *, max_concurrent: int, on_step: Callable[[], None]
) -> None:
    """Run what remains of the study on the connected Ray cluster.

    Args:
        run: the study in motion.
        folder: for Tune's files, new for each process that works on the study.
        max_concurrent: trials at a time.
        on_step: called several times a second; may raise to stop the study.

    Raises:
        StudyInterrupted: when ``on_step`` raised it; running trials are ended.
    """
    request = run.request
    _tune(
        request,
        folder,
        tune.TuneConfig(
            search_alg=_StudySearcher(run),
            num_samples=run.remaining,
            max_concurrent_trials=max_concurrent,
            reuse_actors=request.workers == 1,
            trial_dirname_creator=lambda trial: f"{trial.config['run_id']}-{trial.trial_id}",
        ),
        _Recorder(run, on_step),
        param_space=None,
    )


def run_single(
    request: RunRequest, folder: Path, receive: Callable[[dict[str, Any]], None]
) -> tune.Checkpoint:
    """Run one request on the connected cluster, outside any study.

    Args:
        request: with ``read_test``.
        folder: for Tune's files.
        receive: takes each report; what it raises ends the run.

    Returns:
        The last checkpoint.

    Raises:
        RunFailedError: when the run did not reach its end.
    """
    follower = _Follower(receive)
    _tune(request, folder, tune.TuneConfig(), follower, param_space=request.to_dict())
    if not follower.checkpoints:
        raise RunFailedError("the run ended without its last checkpoint")
    return tune.Checkpoint(follower.checkpoints[-1])


class _Follower(tune.Callback):
    """Passes a single run's reports on and notes its checkpoints."""

    def __init__(self, receive: Callable[[dict[str, Any]], None]) -> None:
        self._receive = receive
        self.checkpoints: list[str] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if CHECKPOINT_PATH in result:
            self.checkpoints.append(result[CHECKPOINT_PATH])
        self._receive(result)

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any
    ) -> None:
        self.checkpoints.append(checkpoint.path)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        raise RunFailedError(f"training failed: {_reason(trial)}")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the receiver out of Tune's own snapshots, which are never read."""
        return {}


def _tune(
    request: RunRequest,
    folder: Path,
    config: tune.TuneConfig,
    callback: tune.Callback,
    *,
    param_space: dict[str, Any] | None,
) -> None:
    if request.workers == 1:
        resources: dict[str, float] = {"CPU": request.threads, "GPU": request.gpus_per_worker}
        trainable = tune.with_resources(run_in_process, resources)
    else:
        trainable = tune.with_resources(run_in_group, _DRIVER_RESOURCES)
    tuner = tune.Tuner(
        trainable,
        param_space=param_space,
        tune_config=config,
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            callbacks=[callback],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            failure_config=tune.FailureConfig(max_failures=_RESTARTS),
            verbose=0,
        ),
    )
    tuner.fit()

"""Ray Tune's part: runs the trials of a study and records what they report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.result import DONE
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from esam_tune.checkpoint_storage import open_storage, ray_arguments, split
from esam_tune.errors import RunFailedError
from esam_tune.failures import described
from esam_tune.study.hang_watch import HangWatch
from esam_tune.study.study_run import StudyRun
from esam_tune.trial import CHECKPOINT_PATH, RunRequest, run_in_process
from esam_tune.worker_group import run_in_group

# The driver of a worker group pins a sliver of the head node; its workers ask for the real thing.
_DRIVER_RESOURCES = {"node:__internal_head__": 0.001}

# What Tune puts above each error of a trial.
_HEADING = re.compile(r"^Failure # .*\n", re.MULTILINE)
# Characters of a reason: of a dead process Ray tells all that may have killed it.
_MOST_WORDS = 300


class StudyInterrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """The study was asked to stop; everything reported is recorded."""


class _StudySearcher(Searcher):
    """Hands the study's trials to Tune."""

    def __init__(self, run: StudyRun) -> None:
        super().__init__()
        self._run = run

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        request = self._run.next_request()
        if request is not None:
            return request.to_dict()
        # None is Tune's "ask again": a run under way may bring further seeds.
        return None if self._run.waits else Searcher.FINISHED

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


class _Listener(tune.Callback):
    """Ends trials that have hung, and says why a trial was given up.

    Args:
        max_epoch_seconds: of silence after which a trial has hung.
    """

    def __init__(self, max_epoch_seconds: float) -> None:
        self._watch = HangWatch(max_epoch_seconds)
        self._running: dict[str, Any] = {}
        self._hung: set[str] = set()
        self.raised: Exception | None = None

    @contextmanager
    def _passed_on(self) -> Iterator[None]:
        """Keep what the block raises: all that Tune passes on of it is a traceback's text."""
        try:
            yield
        except Exception as error:
            self.raised = error
            raise

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running[trial.trial_id] = trial
        self._watch.heard(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._watch.heard(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._over(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._over(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._over(trial)

    def _over(self, trial: Any) -> None:
        self._watch.ended(trial.trial_id)
        self._running.pop(trial.trial_id, None)
        # Tune's means and extremes of every metric, 50 kB a trial, which nobody reads.
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for trial_id in self._watch.look():
            self._watch.ended(trial_id)
            self._hung.add(trial_id)
            trial = self._running[trial_id]
            # It would hang again. Tune's own way to stop a trial waits for its answer, or keeps
            # its process for the next one: this one gives none.
            trial.max_failures = 0
            ray.kill(trial.temporary_state.ray_actor)

    def reason(self, trial: Any) -> str:
        """One line that says why Tune gave a trial up."""
        if trial.trial_id in self._hung:
            return f"hung: no epoch ended within {self._watch.limit:g} s"
        # Tune keeps a trial's errors, one behind the other, in a file of this machine.
        try:
            text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        except OSError:
            text = ""
        last = _HEADING.split(text)[-1]
        return described(last, longest=_MOST_WORDS) or "the trial's process was lost"

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files out of Tune's own snapshots, which are never read."""
        return {}


class _Recorder(_Listener):
    """Passes Tune's events on to the study."""

    def __init__(self, run: StudyRun, on_step: Callable[[], None]) -> None:
        super().__init__(run.request.max_epoch_seconds)
        self._run = run
        self._on_step = on_step

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        super().on_trial_result(iteration, trials, trial, result)
        with self._passed_on():
            self._run.report(trial.config["run_id"], result)
        # Tune marks the report at which its scheduler stops a trial before it passes it on here;
        # a trial that ends by itself ends without another report.
        if result.get(DONE):
            self._run.stop(trial.config["run_id"])

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any
    ) -> None:
        self._run.checkpoint(trial.config["run_id"], checkpoint.path)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        super().on_trial_complete(iteration, trials, trial)
        with self._passed_on():
            self._run.end(trial.config["run_id"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        super().on_trial_error(iteration, trials, trial)
        with self._passed_on():
            self._run.end(trial.config["run_id"], error=self.reason(trial))

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        super().on_step_begin(iteration, trials)
        self._on_step()


def run_trials(
    run: StudyRun,
    where: str | Path,
    *,
    max_concurrent: int,
    on_step: Callable[[], None],
    scheduler: TrialScheduler | None = None,
) -> None:
    """Run what remains of the study on the connected Ray cluster.

    Args:
        run: the study in motion.
        where: folder or URI for Tune's files and one-worker trials' checkpoints, new for each
            process that works on the study.
        max_concurrent: trials at a time.
        on_step: called several times a second; may raise to stop the study.
        scheduler: stops trials early, by their reports; its time attribute is the absolute
            ``epoch``. None trains all to the end.

    Raises:
        StudyInterrupted: when ``on_step`` raised it; running trials are ended.
    """
    request = run.request
    _tune(
        request,
        where,
        tune.TuneConfig(
            scheduler=scheduler,
            search_alg=_StudySearcher(run),
            num_samples=run.remaining,
            max_concurrent_trials=max_concurrent,
            reuse_actors=not request.grouped,
            trial_dirname_creator=lambda trial: f"{trial.config['run_id']}-{trial.trial_id}",
        ),
        _Recorder(run, on_step),
        param_space=None,
    )


def run_single(
    request: RunRequest, where: str | Path, receive: Callable[[dict[str, Any]], None]
) -> tune.Checkpoint:
    """Run one request on the connected cluster, outside any study.

    Args:
        request: with ``read_test``.
        where: folder or URI for Tune's files and a one-worker run's checkpoints.
        receive: takes each report, and where its checkpoint is under ``CHECKPOINT_PATH``: in the
            report, or in a further one that holds nothing else. What it raises ends the run.

    Returns:
        The last checkpoint.

    Raises:
        RunFailedError: when the run did not reach its end.
    """
    follower = _Follower(request.max_epoch_seconds, receive)
    _tune(request, where, tune.TuneConfig(), follower, param_space=request.to_dict())
    if not follower.checkpoints:
        raise RunFailedError("the run ended without its last checkpoint")
    filesystem, _ = open_storage(request.storage)
    return tune.Checkpoint(follower.checkpoints[-1], filesystem=filesystem)


class _Follower(_Listener):
    """Passes a single run's reports on and notes its checkpoints."""

    def __init__(self, max_epoch_seconds: float, receive: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(max_epoch_seconds)
        self._receive = receive
        self.checkpoints: list[str] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        super().on_trial_result(iteration, trials, trial, result)
        if CHECKPOINT_PATH in result:
            self.checkpoints.append(result[CHECKPOINT_PATH])
        with self._passed_on():
            self._receive(result)

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any
    ) -> None:
        self.checkpoints.append(checkpoint.path)
        self._receive({CHECKPOINT_PATH: checkpoint.path})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self._passed_on():
            raise RunFailedError(f"training failed: {self.reason(trial)}")


def _tune(
    request: RunRequest,
    where: str | Path,
    config: tune.TuneConfig,
    callback: _Listener,
    *,
    param_space: dict[str, Any] | None,
) -> None:
    if not request.grouped:
        resources: dict[str, float] = {"CPU": request.threads, "GPU": request.gpus_per_worker}
        trainable = tune.with_resources(run_in_process, resources)
    else:
        trainable = tune.with_resources(run_in_group, _DRIVER_RESOURCES)
    parent, name = split(str(where))
    tuner = tune.Tuner(
        trainable,
        param_space=param_space,
        tune_config=config,
        run_config=tune.RunConfig(
            name=name,
            callbacks=[callback],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            failure_config=tune.FailureConfig(max_failures=request.max_failures),
            verbose=0,
            **ray_arguments(parent),
        ),
    )
    try:
        tuner.fit()
    except Exception:
        if callback.raised is not None:
            raise callback.raised from None
        raise

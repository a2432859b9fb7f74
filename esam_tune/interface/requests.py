"""What a verb is asked, checked and in the form that the work takes it.

The command line passes a verb's options, the Python interface a call's arguments, under the same
names: here alone they become settings and options of a study, a training or a scaling study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from esam_tune.domains import COUNT, RESTARTS
from esam_tune.errors import InputError
from esam_tune.interface.arguments import (
    STORAGE,
    StrPath,
    as_in_a_file,
    awaited_room,
    mlflow_uri,
    progress_console,
    storage_folder,
    text,
    text_or_none,
    worker_shape,
    yaml_text,
)
from esam_tune.study.folder import StudyFolder, study_folder
from esam_tune.study.preflight import SweepOptions
from esam_tune.study.space import Overrides, assigned_space, load_space
from esam_tune.study.spec import StudySpec
from esam_tune.trial import MAX_EPOCH_SECONDS, MAX_FAILURES

Workers = int | tuple[int | None, int]


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """A study to run.

    Args:
        space: what the space file asks.
        overrides: what is asked instead.
        options: how it is run.
        console: receives the progress.
    """

    space: StudySpec
    overrides: Overrides
    options: SweepOptions
    console: Console


@dataclass(frozen=True, kw_only=True)
class RefineRequest:
    """More seeds for a study's front.

    Args:
        folder: of the study.
        seeds: that each setting of the front is to have.
        options: how they are run.
        console: receives the progress.
    """

    folder: StudyFolder
    seeds: int
    options: SweepOptions
    console: Console


def sweep_request(
    space: StrPath | Mapping[str, Any],
    *,
    name: str | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    max_concurrent: int | None = None,
    workers_per_trial: Workers | None = None,
    gpus_per_worker: float | None = None,
    cpus_per_worker: int | None = None,
    checkpoint_storage: StrPath | None = None,
    max_failures: int = MAX_FAILURES,
    max_epoch_seconds: int = int(MAX_EPOCH_SECONDS),
    address: str | None = None,
    await_workers: int | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),  # noqa: A002 - the option's name
    optuna_storage: str | None = None,
    warm_start: StrPath | Sequence[StrPath] = (),
    resume: bool = False,
    tracking_uri: str | None = None,
    storage: StrPath = STORAGE,
    console: Console | None = None,
) -> SweepRequest:
    """What ``sweep`` is asked.

    Args:
        space: path of a space file, or what one holds.
        name: of the study; the space's own by default.
        trials: the search's budget, baselines not counted.
        epochs: of every trial.
        max_concurrent: trials at a time.
        workers_per_trial: processes of each trial, or the fewest and the most of them.
        gpus_per_worker: GPUs of each, or its share of one.
        cpus_per_worker: CPU cores of each.
        checkpoint_storage: folder that all nodes share, or URI.
        max_failures: restarts of a trial after a lost process or node.
        max_epoch_seconds: without a report for so long, a trial has hung and fails.
        address: of a running Ray cluster; None starts one for the time of the call.
        await_workers: room for so many that the cluster is to make before anything begins; needs
            ``address`` and ``gpus_per_worker``.
        seed: of the sampler and the trials.
        seeds: runs of each setting.
        set: field of the space -> value, such as ``{"task.label_noise": 0.2}``, or
            ``FIELD=VALUE`` texts; put over what the space says.
        optuna_storage: URL of Optuna's study.
        warm_start: earlier studies, by name or folder, that the sampler is to know.
        resume: whether to go on with a study that exists.
        tracking_uri: of MLflow; by default ``$MLFLOW_TRACKING_URI``, or a store in the storage.
        storage: folder of all studies.
        console: receives the progress; stderr by default.

    Raises:
        InputError: for what cannot be used.
    """
    shape = worker_shape(cpus_per_worker, gpus_per_worker)
    cluster = text_or_none("--address", address)
    fewest, most = _workers(workers_per_trial)
    starts = [warm_start] if isinstance(warm_start, str | Path) else warm_start
    return SweepRequest(
        space=_space(space, name, _assignments(set)),
        overrides=Overrides(
            name=name,
            trials=trials,
            epochs=epochs,
            max_concurrent=max_concurrent,
            seed=seed,
            seeds=seeds,
        ),
        options=SweepOptions(
            storage=storage_folder(storage),
            tracking_uri=mlflow_uri(tracking_uri),
            address=cluster,
            workers_per_trial=most,
            min_workers=fewest,
            shape=shape,
            room=awaited_room(await_workers, shape, cluster),
            checkpoint_storage=text_or_none("--checkpoint-storage", checkpoint_storage),
            max_failures=int(RESTARTS.check("--max-failures", max_failures)),
            max_epoch_seconds=int(COUNT.check("--max-epoch-seconds", max_epoch_seconds)),
            optuna_storage=text_or_none("--optuna-storage", optuna_storage),
            warm_start=tuple(text("--warm-start", start) for start in starts),
            resume=bool(resume),
            space_file=None if isinstance(space, Mapping) else Path(space),
        ),
        console=progress_console(console),
    )


def refine_request(
    study: str,
    *,
    seeds: int,
    gpus_per_worker: float | None = None,
    cpus_per_worker: int | None = None,
    max_failures: int = MAX_FAILURES,
    max_epoch_seconds: int = int(MAX_EPOCH_SECONDS),
    address: str | None = None,
    await_workers: int | None = None,
    tracking_uri: str | None = None,
    storage: StrPath = STORAGE,
    console: Console | None = None,
) -> RefineRequest:
    """What ``refine`` is asked.

    Args:
        study: name of the study.
        seeds: that each setting of the front is to have, those it has included.
        gpus_per_worker: GPUs of each worker, or its share of one.
        cpus_per_worker: CPU cores of each.
        max_failures: restarts of a run after a lost process or node.
        max_epoch_seconds: without a report for so long, a run has hung and fails.
        address: of a running Ray cluster; None starts one for the time of the call.
        await_workers: room for so many that the cluster is to make before anything begins; needs
            ``address`` and ``gpus_per_worker``.
        tracking_uri: of MLflow; the study's own, which may need its password again.
        storage: folder of all studies.
        console: receives the progress; stderr by default.

    Raises:
        InputError: for what cannot be used.
    """
    shape = worker_shape(cpus_per_worker, gpus_per_worker)
    cluster = text_or_none("--address", address)
    folder = study_folder(storage_folder(storage), study)
    return RefineRequest(
        folder=folder,
        seeds=int(COUNT.check("--seeds", seeds)),
        options=SweepOptions(
            storage=folder.storage,
            tracking_uri=mlflow_uri(tracking_uri),
            address=cluster,
            shape=shape,
            room=awaited_room(await_workers, shape, cluster),
            max_failures=int(RESTARTS.check("--max-failures", max_failures)),
            max_epoch_seconds=int(COUNT.check("--max-epoch-seconds", max_epoch_seconds)),
        ),
        console=progress_console(console),
    )


def _workers(asked: Workers | None) -> tuple[int | None, int | None]:
    """The fewest workers of a trial, None for a fixed count, and the most."""
    option = "--workers-per-trial"
    if asked is None:
        return None, None
    if not isinstance(asked, tuple):
        return None, int(COUNT.check(option, asked))
    if len(asked) != 2:
        raise InputError(option, f"must be a count or two, got {asked!r}", "for example (2, 4)")
    fewest, most = asked
    most = int(COUNT.check(option, most))
    if fewest is None:
        return None, most
    fewest = int(COUNT.check(option, fewest))
    if fewest >= most:
        problem = f"must rise from the fewest to the most, got {fewest} and {most}"
        raise InputError(option, problem, "or give one count")
    return fewest, most


def _space(
    space: StrPath | Mapping[str, Any], name: str | None, assignments: Sequence[str]
) -> StudySpec:
    if not isinstance(space, Mapping):
        return load_space(Path(text("SPACE", space)), assignments)
    return assigned_space(as_in_a_file("SPACE", space), assignments, default_name=name or "")


def _assignments(asked: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """``FIELD=VALUE`` texts."""
    if not isinstance(asked, Mapping):
        return [asked] if isinstance(asked, str) else list(asked)
    return [f"{field}={yaml_text('--set', value)}" for field, value in asked.items()]

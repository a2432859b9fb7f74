"""Everything that is checked before a study starts anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from esam_tune.errors import InputError
from esam_tune.study import cluster
from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.folder import StudyFolder, check_storage, study_folder
from esam_tune.study.record import StudyRecord
from esam_tune.study.space import Overrides
from esam_tune.study.spec import Range, StudySpec
from esam_tune.tracking.store import check_uri, local_uri, without_credentials


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How a study is run, as opposed to what it asks.

    Args:
        storage: folder of all studies.
        tracking_uri: of MLflow, or None for a store inside ``storage``.
        address: of a Ray cluster, or None to start one on this machine.
        workers_per_trial: processes that train one trial together; None for 1, or for what the
            resumed study was started with.
        resume: whether to go on with a study that exists.
        checkpoint_seconds: least time between two checkpoints of a trial.
    """

    storage: Path
    tracking_uri: str | None = None
    address: str | None = None
    workers_per_trial: int | None = None
    resume: bool = False
    checkpoint_seconds: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will run, after all checks that need no cluster."""

    spec: StudySpec
    folder: StudyFolder
    workers: int
    uri: str


def preflight(space: StudySpec, overrides: Overrides, options: SweepOptions) -> Plan:
    """Check everything that can be checked before anything starts.

    Raises:
        InputError: naming what is wrong.
    """
    spec = overrides.apply(space)
    folder = study_folder(options.storage, spec.name, "--name")
    check_storage(options.storage)
    uri = options.tracking_uri or local_uri(options.storage)
    workers = options.workers_per_trial or 1
    if folder.exists() and not options.resume:
        raise InputError(
            "--name",
            f"study {spec.name!r} exists in {str(folder.storage)!r}",
            "add --resume to go on with it, or choose another --name",
        )
    if options.resume:
        stored = folder.record()
        spec = _resumed_spec(space, overrides, stored)
        workers = options.workers_per_trial or stored.workers_per_trial
        _require_same("--workers-per-trial", stored, stored.workers_per_trial, workers)
        uri = options.tracking_uri or stored.tracking_uri
        _require_same("--tracking-uri", stored, stored.tracking_uri, without_credentials(uri))
    if options.address is None:
        cluster.check_workers(workers, cluster.local_cores(), "this machine")
    cluster.check_address(options.address)
    if uri != local_uri(options.storage):
        check_uri(uri)
    _check_batch_sizes(spec, workers)
    PredictedCost(spec, workers).check()
    return Plan(spec=spec, folder=folder, workers=workers, uri=uri)


def _resumed_spec(space: StudySpec, overrides: Overrides, stored: StudyRecord) -> StudySpec:
    """The stored study with a new budget if asked for; nothing else may have changed."""
    before = stored.spec
    unless_asked = replace(
        space,
        trials=before.trials,
        max_concurrent=before.max_concurrent,
        seed=before.seed,
        training=replace(space.training, epochs=before.training.epochs),
    )
    spec = overrides.apply(unless_asked)
    budget = replace(before, trials=spec.trials, max_concurrent=spec.max_concurrent)
    for key, value in spec.to_dict().items():
        expected = budget.to_dict()[key]
        _require_same(key, stored, expected, value)
        # The order of the objectives is that of Optuna's stored values.
        if isinstance(value, dict) and key == "objectives":
            _require_same(key, stored, list(expected), list(value))
    return spec


def _require_same(field: str, stored: StudyRecord, before: object, now: object) -> None:
    if before != now:
        raise InputError(
            field,
            f"differs from that of the stored study {stored.spec.name!r}: it was {before!r}, "
            f"got {now!r}",
            "resume with what it was, or choose another --name without --resume",
        )


def _check_batch_sizes(spec: StudySpec, workers: int) -> None:
    from esam_tune.tasks.data import check_batch_size, load_split

    searched = spec.dimensions.get("batch_size")
    if workers > 1 and isinstance(searched, Range):
        raise InputError(
            "search.batch_size",
            f"must be choices for trials of {workers} workers, which divide it, got a range",
            "write `batch_size: {choices: [...]}`",
        )
    train = load_split(spec.task, "train")
    for field, size in spec.batch_sizes():
        check_batch_size(size, workers, train, field)

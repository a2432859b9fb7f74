"""Everything that is checked before a study starts anything."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from esam_tune.checkpoint_storage import check_checkpoint_storage, normalise
from esam_tune.config import check_precision
from esam_tune.errors import InputError
from esam_tune.study import cluster
from esam_tune.study.awaited_room import OPTION, Room
from esam_tune.study.dimensions import Range
from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.folder import StudyFolder, check_storage, study_folder
from esam_tune.study.optuna_storage import check_optuna_storage
from esam_tune.study.placement import Node, Placement, WorkerShape, place
from esam_tune.study.record import StudyRecord
from esam_tune.study.search_checks import check_budget, check_search
from esam_tune.study.space import Overrides
from esam_tune.study.spec import StudySpec
from esam_tune.study.warm_start import WarmStart, kept_warm_starts, warm_starts
from esam_tune.tracking.store import check_form, check_uri, local_uri, without_credentials
from esam_tune.trial import MAX_EPOCH_SECONDS, MAX_FAILURES
from esam_tune.worker_scaling import check_shares


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How a study is run, as opposed to what it asks.

    Args:
        storage: folder of all studies.
        tracking_uri: of MLflow, or None for a store inside ``storage``.
        address: of a Ray cluster, or None to start one on this machine.
        workers_per_trial: processes that train one trial together, the most of them with an
            elastic range; None for 1, or for what the resumed study was started with.
        min_workers: the fewest of an elastic range, or None for a fixed count.
        shape: what each of them takes.
        room: that the cluster is to make before the study begins, or None for what there is.
        checkpoint_storage: folder that all nodes share, or URI, for checkpoints; None for the
            study's own folder, or for what the resumed study was started with.
        max_failures: restarts of a trial after a lost process, worker or node.
        max_epoch_seconds: without a report for so long, a trial has hung and is ended.
        optuna_storage: URL of the storage of Optuna's study; None for a database in the study's
            own folder, or for what the resumed study was started with.
        warm_start: earlier studies whose trials the sampler is to know, by name or folder.
        resume: whether to go on with a study that exists.
        checkpoint_seconds: least time between two checkpoints of a trial.
        space_file: that asks for the study, whose commit is kept with it; None for none.
    """

    storage: Path
    tracking_uri: str | None = None
    address: str | None = None
    workers_per_trial: int | None = None
    min_workers: int | None = None
    shape: WorkerShape = field(default_factory=WorkerShape)
    room: Room | None = None
    checkpoint_storage: str | None = None
    max_failures: int = MAX_FAILURES
    max_epoch_seconds: float = MAX_EPOCH_SECONDS
    optuna_storage: str | None = None
    warm_start: tuple[str, ...] = ()
    resume: bool = False
    checkpoint_seconds: float = 5.0
    space_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will run, after all checks that need no cluster.

    Args:
        spec: the study.
        folder: of the study.
        workers: of a trial, the most of them.
        min_workers: the fewest, or None for a fixed count.
        uri: of MLflow.
        checkpoint_storage: as asked for, without credentials; None for the study's own folder.
        optuna_storage: as asked for, with its credentials; None for the study's own folder.
        warm_start: what earlier studies found.
    """

    spec: StudySpec
    folder: StudyFolder
    workers: int
    min_workers: int | None
    uri: str
    checkpoint_storage: str | None
    optuna_storage: str | None
    warm_start: tuple[WarmStart, ...] = ()

    def place(self, nodes: list[Node], shape: WorkerShape, where: str) -> Placement:
        """Share nodes out among trials.

        Raises:
            InputError: when not one trial fits, or the workers do not offer the precision.
        """
        fewest, asked = self.min_workers or self.workers, self.spec.max_concurrent
        placed = place(nodes, fewest, asked, shape=shape, where=where)
        check_precision(self.spec.training, gpu=placed.gpus_per_worker > 0)
        if self.min_workers is None:
            return placed
        # Room for a trial's most workers, where there is: a range is for nodes that come and go.
        fit = max(1, placed.slots // self.workers)
        return replace(placed, max_concurrent=min(asked or fit, fit))


def preflight(space: StudySpec, overrides: Overrides, options: SweepOptions) -> Plan:
    """Check everything that can be checked before anything starts.

    Raises:
        InputError: naming what is wrong.
    """
    check_storage(options.storage)
    plan = draw_up(space, overrides, options)
    check_plan(plan, options)
    return plan


def draw_up(space: StudySpec, overrides: Overrides, options: SweepOptions) -> Plan:
    """What is to be done, given what the study's folder holds; within milliseconds.

    Raises:
        InputError: for a study that exists and is not resumed, or is resumed as another.
    """
    spec = overrides.apply(space)
    folder = study_folder(options.storage, spec.name, "--name")
    uri = options.tracking_uri or local_uri(options.storage)
    workers, min_workers = options.workers_per_trial or 1, options.min_workers
    shared = None if options.checkpoint_storage is None else normalise(options.checkpoint_storage)
    optuna_storage = options.optuna_storage
    if folder.exists() and not options.resume:
        raise InputError(
            "--name",
            f"study {spec.name!r} exists in {str(folder.storage)!r}",
            "add --resume to go on with it, or choose another --name",
        )
    if options.resume:
        stored = folder.record()
        spec = _resumed_spec(space, overrides, stored)
        started = folder.started_with()
        if options.workers_per_trial is None:
            workers, min_workers = stored.workers_per_trial, started.get("min_workers")
        before = (started.get("min_workers"), stored.workers_per_trial)
        _require_same(
            "--workers-per-trial", stored, workers_text(*before), workers_text(min_workers, workers)
        )
        shared = shared or started.get("checkpoint_storage")
        _require_same("--checkpoint-storage", stored, started.get("checkpoint_storage"), shared)
        kept = started.get("optuna_storage")
        optuna_storage = optuna_storage or kept
        shown = optuna_storage and without_credentials(optuna_storage)
        _require_same("--optuna-storage", stored, kept, shown)
        uri = options.tracking_uri or stored.tracking_uri
        _require_same("--tracking-uri", stored, stored.tracking_uri, without_credentials(uri))
        warm = kept_warm_starts(started, options.warm_start, folder)
    else:
        warm = warm_starts(options.warm_start, spec, folder)
    return Plan(
        spec=spec,
        folder=folder,
        workers=workers,
        min_workers=min_workers,
        uri=uri,
        checkpoint_storage=shared,
        optuna_storage=optuna_storage,
        warm_start=warm,
    )


def check_plan(plan: Plan, options: SweepOptions) -> None:
    """Check what a plan needs: addresses that answer, room, data, a space that can be searched.

    Raises:
        InputError: naming what is wrong.
    """
    spec, workers, min_workers = plan.spec, plan.workers, plan.min_workers
    check_trials_fit(plan, options)
    cluster.check_address(options.address)
    _check_elastic(options, min_workers)
    if plan.uri != local_uri(options.storage):
        # A study that is under way goes on without its server, which gets everything later.
        (check_form if options.resume else check_uri)(plan.uri)
    if plan.checkpoint_storage is not None:
        check_checkpoint_storage(plan.checkpoint_storage)
    if plan.optuna_storage is not None:
        check_optuna_storage(plan.optuna_storage)
    if options.address is None:
        plan.place(cluster.local_nodes(), options.shape, "this machine")
    if min_workers is not None:
        for name, size in spec.batch_sizes():
            check_shares(size, range(min_workers, workers + 1), name)
    _check_batch_sizes(spec, workers)
    check_search(spec)
    predicted = PredictedCost(spec, workers)
    predicted.check()
    check_budget(spec, predicted.admits)


def workers_text(fewest: int | None, most: int) -> str:
    """A worker count, or a range of them, as the command line takes it."""
    return str(most) if fewest is None else f"{fewest}-{most}"


def _check_elastic(options: SweepOptions, fewest: int | None) -> None:
    if fewest is not None and options.shape.gpus and options.shape.gpus < 1:
        raise InputError(
            "--gpus-per-worker",
            f"must be whole GPUs with a range of workers, got {options.shape.gpus:g}",
            "give --workers-per-trial one count, or whole GPUs",
        )


def check_trials_fit(plan: Plan, options: SweepOptions) -> None:
    """Check that a trial fits into the room that is asked for, and no node is left idle in it.

    How many runs a resumed study has left, or a refined one gets, is not known here.

    Raises:
        InputError: for room that is too small, or that its trials do not take.
    """
    room, workers, fewest = options.room, plan.workers, plan.min_workers or plan.workers
    if room is None:
        return
    if room.workers < fewest:
        raise InputError(
            OPTION,
            f"must be at least {fewest}, the workers of one trial, got {room.workers}",
            f"ask for {fewest}, or give trials fewer with --workers-per-trial",
        )
    if plan.min_workers is None and room.workers % workers:
        raise InputError(
            OPTION,
            f"must be a multiple of the {workers} workers of a trial, got {room.workers}",
            f"ask for {room.workers // workers * workers}",
        )
    most, why, more = plan.spec.runs, "the study has no more", "--trials"
    asked = plan.spec.max_concurrent
    if asked is not None and (options.resume or asked < most):
        most, why, more = asked, f"max_concurrent: {asked}", "the sweep's --max-concurrent"
    elif options.resume:
        return
    if room.workers > most * workers:
        raise InputError(
            OPTION,
            f"must be at most {most * workers}, all that the trials at a time take ({why}), "
            f"got {room.workers}",
            f"ask for fewer, or raise {more}",
        )


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
    from esam_tune.tasks.data import check_batch_size, checked_train_split

    searched = spec.dimensions.get("batch_size")
    if workers > 1 and isinstance(searched, Range):
        raise InputError(
            "search.batch_size",
            f"must be choices for trials of {workers} workers, which divide it, got a range",
            "write `batch_size: {choices: [...]}`",
        )
    train = checked_train_split(spec.task)
    for name, size in spec.batch_sizes():
        check_batch_size(size, workers, train, name)

"""A sweep from its first check to its last line."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from rich.console import Console

from esam_tune import journal
from esam_tune.errors import InputError
from esam_tune.journal import Journal
from esam_tune.study import cluster
from esam_tune.study.folder import StudyFolder, check_storage, study_folder
from esam_tune.study.progress import Progress
from esam_tune.study.record import StudyRecord
from esam_tune.study.results import DEFAULT_RULE, summarise, write_results
from esam_tune.study.space import Overrides
from esam_tune.study.spec import StudySpec
from esam_tune.tracking.spool import Tracker
from esam_tune.tracking.store import artifact_root, check_uri, local_uri, without_credentials
from esam_tune.trial import RunRequest

_log = logging.getLogger(__name__)

_TRACKER_SECONDS = 30.0
_TRACKER_SECONDS_INTERRUPTED = 5.0

Outcome = Literal["done", "failed", "interrupted", "terminated"]


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
class SweepResult:
    """What came of it.

    Args:
        outcome: ``failed`` when no trial reached its end.
        document: as the JSON contract has it.
        record: of the study.
        folder: of the study.
    """

    outcome: Outcome
    document: dict[str, Any]
    record: StudyRecord
    folder: StudyFolder


def sweep(
    space: StudySpec, overrides: Overrides, options: SweepOptions, console: Console
) -> SweepResult:
    """Run a study, or the rest of one.

    Args:
        space: what the space file asks.
        overrides: what the command line asks instead.
        options: how it is run.
        console: receives the live table.

    Raises:
        InputError: for whatever can be seen to be wrong before anything starts.
    """
    plan = _preflight(space, overrides, options)
    with cluster.connected(options.address, distributed=plan.workers > 1) as found:
        placement = cluster.place(found, plan.workers, plan.spec.max_concurrent)
        plan.folder.path.mkdir(parents=True, exist_ok=True)
        with plan.folder.lock(), _stop_on_signals() as stop:
            return _run(plan, options, placement, stop, console)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What will run, after all checks that need no cluster."""

    spec: StudySpec
    folder: StudyFolder
    workers: int
    uri: str


def _preflight(space: StudySpec, overrides: Overrides, options: SweepOptions) -> _Plan:
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
    return _Plan(spec=spec, folder=folder, workers=workers, uri=uri)


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

    train = load_split(spec.task, "train")
    check_batch_size(spec.training.batch_size, workers, train)
    for size in spec.batch_sizes():
        check_batch_size(size, workers, train)


def _run(
    plan: _Plan,
    options: SweepOptions,
    placement: cluster.Placement,
    stop: list[signal.Signals],
    console: Console,
) -> SweepResult:
    from esam_tune.study.proposals import Proposals
    from esam_tune.study.runner import StudyInterrupted, StudyRun, run_trials

    folder = plan.folder
    writer = Journal(folder.journal)
    record = _open_record(plan, writer)
    tracker = Tracker(
        plan.uri, artifact_root(options.storage, plan.uri), folder.journal, folder.cursor
    )
    tracker.start()
    proposals = Proposals(folder.optuna, plan.spec)
    proposals.settle(record)
    tune_folder = folder.new_tune_folder()
    request = RunRequest(
        settings={},
        run_id="",
        storage=str(tune_folder / "groups"),
        workers=plan.workers,
        gpus_per_worker=placement.gpus_per_worker,
        threads=placement.threads,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    run = StudyRun(record, writer, proposals, request)
    outcome: Outcome = "done"
    with Progress(record, console) as progress:

        def on_step() -> None:
            progress.update()
            if stop:
                raise StudyInterrupted

        try:
            if run.remaining:
                run_trials(
                    run, tune_folder, max_concurrent=placement.max_concurrent, on_step=on_step
                )
        except StudyInterrupted:
            outcome = "terminated" if signal.SIGTERM in stop else "interrupted"
    if outcome == "done" and not record.complete:
        outcome = "failed"
    if all(trial.state == "complete" for trial in record.trials.values()):
        folder.drop_tune_folders()
    _finish(record, folder, writer, outcome)
    stopped = outcome in ("interrupted", "terminated")
    if not tracker.close(_TRACKER_SECONDS_INTERRUPTED if stopped else _TRACKER_SECONDS):
        _log.warning(
            "not every record has reached MLflow at %s; --resume sends the rest",
            without_credentials(plan.uri),
        )
    return SweepResult(
        outcome=outcome, document=summarise(folder, record), record=record, folder=folder
    )


def _open_record(plan: _Plan, writer: Journal) -> StudyRecord:
    if plan.folder.journal.stat().st_size:
        record = StudyRecord.from_journal(plan.folder.journal)
        if record.spec != plan.spec:
            record.apply(writer.append(journal.BUDGET, durable=True, space=plan.spec.to_dict()))
        writer.append(journal.STUDY_RESUME)
        return record
    event = writer.append(
        journal.STUDY,
        durable=True,
        study_id=uuid.uuid4().hex,
        space=plan.spec.to_dict(),
        workers_per_trial=plan.workers,
        tracking_uri=without_credentials(plan.uri),
        versions=_versions(),
    )
    return StudyRecord(plan.spec, event["workers_per_trial"], event["tracking_uri"])


def _finish(record: StudyRecord, folder: StudyFolder, writer: Journal, outcome: Outcome) -> None:
    chosen = record.pick(DEFAULT_RULE)
    artifacts = write_results(folder, record)
    writer.append(
        journal.STUDY_END,
        durable=True,
        state="interrupted" if outcome == "terminated" else outcome,
        artifacts=[str(path) for path in artifacts],
        front=[trial.trial_id for trial in record.front()],
        chosen=chosen and chosen.trial_id,
    )
    writer.close()


def _versions() -> dict[str, str]:
    names = ("esam-tune", "torch", "ray", "optuna", "mlflow-skinny")
    found = {name: importlib.metadata.version(name) for name in names}
    return {**found, "python": platform.python_version()}


@contextmanager
def _stop_on_signals() -> Iterator[list[signal.Signals]]:
    """Collect the first SIGINT or SIGTERM; a second one takes its default effect at once."""
    received: list[signal.Signals] = []
    watched = (signal.SIGINT, signal.SIGTERM)

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        for name in watched:
            signal.signal(name, signal.SIG_DFL)

    before = {name: signal.signal(name, note) for name in watched}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)

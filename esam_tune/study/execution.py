"""Carries a study out: its journal, sampler, trials, tracking and results, from start to end."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import signal
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

import esam_tune
from esam_tune import journal
from esam_tune.checkpoint_storage import join
from esam_tune.journal import Journal
from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.folder import StudyFolder
from esam_tune.study.patience import StoragePatience
from esam_tune.study.placement import Placement
from esam_tune.study.preflight import Plan, SweepOptions
from esam_tune.study.progress import Progress
from esam_tune.study.provenance import provenance
from esam_tune.study.record import StudyRecord
from esam_tune.study.results import DEFAULT_RULE, summarise, write_results
from esam_tune.study.tracked_study import tracker_of
from esam_tune.tracking.spool import Tracker
from esam_tune.tracking.store import local_uri, without_credentials
from esam_tune.trial import RunRequest

if TYPE_CHECKING:
    from esam_tune.study.agenda import Agenda
    from esam_tune.study.proposals import Proposals

_log = logging.getLogger(__name__)

_TRACKER_SECONDS = 30.0
_TRACKER_SECONDS_STOPPED = 5.0

Outcome = Literal["done", "failed", "interrupted", "terminated"]


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


def carry_out(
    plan: Plan,
    options: SweepOptions,
    placement: Placement,
    agenda_for: Callable[[StudyRecord, Proposals], Agenda],
    stop: list[signal.Signals],
    console: Console,
) -> SweepResult:
    """Run what a study's agenda asks for on the connected cluster, and write what came of it.

    Args:
        plan: of the study, all checks passed; its folder is locked by the caller.
        options: how it is run.
        placement: of its trials on the cluster.
        agenda_for: what is to be run, given what is known and the sampler.
        stop: signals received so far; one ends the study in order.
        console: receives the live table.
    """
    from esam_tune.study.proposals import Proposals
    from esam_tune.study.runner import StudyInterrupted, run_trials
    from esam_tune.study.scheduler import RungScheduler
    from esam_tune.study.study_run import StudyRun
    from esam_tune.study.study_rungs import StudyRungs

    folder = plan.folder

    under_way = False

    def leave_if_asked() -> None:
        # Before the first trial and after the last one a second signal is what ends a wait.
        if under_way and stop:
            raise StudyInterrupted

    patience = StoragePatience(str(folder.path), leave_if_asked)
    writer = Journal(folder.journal, patience)
    record = _open_record(plan, options, placement, writer)
    predicted = PredictedCost(plan.spec, plan.workers)
    proposals = Proposals(
        plan.optuna_storage or folder.optuna,
        plan.spec,
        predicted.admits,
        price=predicted,
        study_name=None if plan.optuna_storage is None else folder.optuna_name(),
        warm=plan.warm_start,
        patience=patience,
    )
    proposals.settle(record)
    tune_folder = folder.new_tune_folder()
    request = RunRequest(
        settings={},
        run_id="",
        storage=join(tune_folder, "groups"),
        workers=plan.workers,
        min_workers=plan.min_workers,
        gpus_per_worker=placement.gpus_per_worker,
        threads=placement.threads,
        max_failures=options.max_failures,
        max_epoch_seconds=options.max_epoch_seconds,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    rungs = StudyRungs.rebuilt(record, (event for event, _ in journal.read(folder.journal)))
    agenda = agenda_for(record, proposals)
    run = StudyRun(record, writer, agenda, request, rungs.stopped)
    run.end_stopped()
    tracker = tracker_of(folder, plan.uri, plan.uri)
    tracker.start()
    outcome: Outcome = "failed"
    try:
        under_way = True
        with Progress(record, console, lambda: agenda.most) as progress:

            def on_step() -> None:
                progress.update()
                leave_if_asked()

            leave_if_asked()
            if run.remaining:
                run_trials(
                    run,
                    tune_folder,
                    max_concurrent=placement.max_concurrent,
                    on_step=on_step,
                    scheduler=RungScheduler(rungs),
                )
        outcome = "done" if record.complete else "failed"
    except StudyInterrupted:
        outcome = "terminated" if signal.SIGTERM in stop else "interrupted"
    finally:
        under_way = False
        try:
            _finish(record, folder, writer, outcome)
        finally:
            _close(tracker, plan, outcome)
    if all(trial.state != "running" for trial in record.trials.values()):
        folder.drop_tune_folders()
    return SweepResult(
        outcome=outcome, document=summarise(folder, record), record=record, folder=folder
    )


def _open_record(
    plan: Plan, options: SweepOptions, placement: Placement, writer: Journal
) -> StudyRecord:
    if plan.folder.exists():
        record = StudyRecord.from_journal(plan.folder.journal)
        if record.spec != plan.spec:
            record.apply(writer.append(journal.BUDGET, durable=True, space=plan.spec.to_dict()))
        writer.append(journal.STUDY_RESUME)
        return record
    local = plan.uri == local_uri(plan.folder.storage)
    event = writer.append(
        journal.STUDY,
        durable=True,
        study_id=uuid.uuid4().hex,
        space=plan.spec.to_dict(),
        workers_per_trial=plan.workers,
        min_workers=plan.min_workers,
        checkpoint_storage=plan.checkpoint_storage,
        optuna_storage=plan.optuna_storage and without_credentials(plan.optuna_storage),
        warm_start=[start.to_dict() for start in plan.warm_start],
        # The store inside the storage is found by the storage, wherever that is moved to.
        tracking_uri=None if local else without_credentials(plan.uri),
        versions=_versions(),
        **provenance(plan.spec.task, options.space_file, placement.gpus_per_worker),
    )
    return StudyRecord(plan.spec, event["workers_per_trial"], without_credentials(plan.uri))


def _finish(record: StudyRecord, folder: StudyFolder, writer: Journal, outcome: Outcome) -> None:
    chosen = record.pick(DEFAULT_RULE)
    front = [trial.trial_id for trial in record.front()]
    # Who ends a study by a signal waits for nothing that can be drawn later.
    artifacts = write_results(folder, record, all_plots=outcome == "done")
    writer.append(
        journal.STUDY_END,
        durable=True,
        state="interrupted" if outcome == "terminated" else outcome,
        artifacts=[str(path) for path in artifacts],
        front=front,
        dominated=[t.trial_id for t in record.complete if t.trial_id not in front],
        chosen=chosen and chosen.trial_id,
    )
    writer.close()


def _close(tracker: Tracker, plan: Plan, outcome: Outcome) -> None:
    if not tracker.close(_TRACKER_SECONDS if outcome == "done" else _TRACKER_SECONDS_STOPPED):
        _log.warning(
            "not every record has reached MLflow at %s; `esam-tune sync %s` sends the rest",
            without_credentials(plan.uri),
            plan.folder.name,
        )


def _versions() -> dict[str, str]:
    names = ("torch", "ray", "optuna", "mlflow-skinny")
    found = {name: importlib.metadata.version(name) for name in names}
    # A job's cluster has the dependencies installed; this package comes with the upload.
    return {"esam-tune": esam_tune.__version__, **found, "python": platform.python_version()}

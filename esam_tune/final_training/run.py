"""A final training, from the first check to the model that MLflow receives."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import esam_tune
from esam_tune.config import TrialSettings
from esam_tune.final_training.execution import carry_out, drop_checkpoints
from esam_tune.final_training.plan import Plan, TrainOptions, draw_up
from esam_tune.final_training.publication import live_run, publish
from esam_tune.final_training.record import Metrics, TrainingRecord
from esam_tune.final_training.recorder import HopelessError, OnEpoch, Recorder
from esam_tune.journal import TRAINING, TRAINING_RESUME, Journal
from esam_tune.study.patience import StoragePatience
from esam_tune.tracking.store import without_credentials

_log = logging.getLogger(__name__)


def train_chosen(
    settings: TrialSettings, options: TrainOptions, on_epoch: OnEpoch
) -> dict[str, Any]:
    """Train a setting, read the test split once, and keep weights, history and result.

    Whatever ends it early, even a SIGKILL, it goes on from its last checkpoint with
    ``options.resume``, and on the CPU comes to the same weights bit for bit. One that has ended is
    not trained again: MLflow receives what it lacks, and the result is read back.

    Args:
        settings: of the run, as they were found; they are brought to the worker count by the rule.
        options: where and on how many workers.
        on_epoch: receives each epoch's metrics, unless an earlier process has reported them.

    Returns:
        The JSON document that ``esam-tune train`` prints.

    Raises:
        InputError: for whatever can be seen to be wrong before anything starts.
        RunFailedError: when the training did not reach its end. Of one that diverged nothing is
            left in the storage.
    """
    plan = draw_up(settings, options)
    # Taken now: a name that another process takes meanwhile would cost the whole training.
    # Whatever ends it, up to the model's upload, the run in MLflow says so.
    with plan.folder.held(new=not options.resume), ExitStack() as shown:
        record = _train(plan, options, on_epoch, shown)
        document = {
            "name": plan.folder.name,
            "settings": plan.settings.to_dict(),
            "workers": plan.workers,
            "scaling": plan.scaled.to_dict(),
            **record.to_dict(),
            "weights": str(plan.folder.weights),
            "tracking_uri": without_credentials(plan.uri),
        }
        document |= publish(plan, record, document, options.register)
        _write(document, plan.folder.result)
    return document


def _train(
    plan: Plan, options: TrainOptions, on_epoch: OnEpoch, shown: ExitStack
) -> TrainingRecord:
    """Train what is left of it, in sight until ``shown`` ends; what the journal then tells."""
    writer = Journal(plan.folder.journal, StoragePatience(str(plan.folder.path), lambda: None))
    try:
        record = _open_record(plan, writer)
        try:
            if not record.done:
                live = shown.enter_context(live_run(plan, record))

                def report(metrics: Metrics) -> None:
                    live.add(record.timed_history[-1])
                    on_epoch(metrics)

                epochs = plan.settings.training.epochs
                carry_out(plan, options, Recorder(record, writer, plan.folder, epochs, report))
                live.rest()
        except BaseException as error:
            # Where nothing was reported, there is nothing to go on with either.
            if isinstance(error, HopelessError) or not record.history:
                drop_checkpoints(plan, record.training_id)
                plan.folder.forget()
            raise
    finally:
        writer.close()
    drop_checkpoints(plan, record.training_id)
    return record


def _open_record(plan: Plan, writer: Journal) -> TrainingRecord:
    if plan.folder.started():
        record = TrainingRecord.read(plan.folder.journal)
        if not record.done:
            record.apply(writer.append(TRAINING_RESUME))
        return record
    begun = writer.append(
        TRAINING,
        durable=True,
        training_id=uuid.uuid4().hex,
        versions=_versions(),
        **plan.beginning(),
    )
    return TrainingRecord(begun)


def _versions() -> dict[str, str]:
    names = ("torch", "ray", "mlflow-skinny")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"esam-tune": esam_tune.__version__, **found, "python": platform.python_version()}


def _write(document: dict[str, Any], path: Path) -> None:
    """Replace a JSON file in one go."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(document, indent=2), encoding="utf-8")
    scratch.replace(path)

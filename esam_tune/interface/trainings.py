"""Final trainings in Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from esam_tune.config import TrialSettings
from esam_tune.domains import COUNT, RESTARTS
from esam_tune.errors import InputError, RunFailedError
from esam_tune.final_training import TrainOptions, default_name, train_chosen, training_folder
from esam_tune.interface.arguments import (
    STORAGE,
    Settings,
    StrPath,
    awaited_room,
    mlflow_uri,
    progress_console,
    run_settings,
    storage_folder,
    text_or_none,
    worker_shape,
)
from esam_tune.interface.calls import interruptible, taking
from esam_tune.study.front_table import format_metric
from esam_tune.study.space import check_name
from esam_tune.trial import MAX_FAILURES
from esam_tune.worker_scaling import FIXED_GLOBAL, WorkerRule

_SHOWN = ("train_loss", "val_loss", "val_accuracy", "test_accuracy")


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """A training to run.

    Args:
        settings: as they were found.
        options: how they are trained.
        console: receives a line an epoch.
    """

    settings: TrialSettings
    options: TrainOptions
    console: Console

    def show_epoch(self, metrics: dict[str, float | None]) -> None:
        """Print a line on an epoch that has ended."""
        shown = ", ".join(
            f"{key} {format_metric(key, metrics[key])}" for key in _SHOWN if key in metrics
        )
        epochs = self.settings.training.epochs
        self.console.print(f"epoch {metrics['epoch']:.0f}/{epochs}  {shown}")


def train_request(
    settings: Settings,
    *,
    name: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    register: str | None = None,
    batch_rule: str | None = None,
    lr_rule: str | None = None,
    gpus_per_worker: float | None = None,
    cpus_per_worker: int | None = None,
    checkpoint_storage: StrPath | None = None,
    max_failures: int = MAX_FAILURES,
    address: str | None = None,
    await_workers: int | None = None,
    tracking_uri: str | None = None,
    storage: StrPath = STORAGE,
    console: Console | None = None,
) -> TrainRequest:
    """What ``train`` is asked.

    Args:
        settings: path of a settings file, what one holds, or a pick.
        name: of the run; from the settings' study and trial by default.
        workers: processes; one by default.
        resume: whether to go on with the training of that name.
        register: name in MLflow's model registry that receives the model as its next version.
        batch_rule: what stays on another worker count: ``fixed-global`` (default) or
            ``per-worker``.
        lr_rule: how the learning rate follows the global batch.
        gpus_per_worker: GPUs of each worker, or its share of one.
        cpus_per_worker: CPU cores of each; all of them for one that trains alone.
        checkpoint_storage: folder that all nodes share, or URI.
        max_failures: restarts after a lost process or node.
        address: of a running Ray cluster; None starts one where there are several workers.
        await_workers: room for so many that the cluster is to make before anything begins; needs
            ``address`` and ``gpus_per_worker``.
        tracking_uri: of MLflow; by default ``$MLFLOW_TRACKING_URI``, or a store in the storage.
        storage: folder that receives the model.
        console: receives a line an epoch; stderr by default.

    Raises:
        InputError: for what cannot be used.
    """
    if resume and name is None:
        raise InputError("--name", "is needed with --resume", "name the training to go on with")
    found, where = run_settings(settings), storage_folder(storage)
    shape = worker_shape(cpus_per_worker, gpus_per_worker)
    cluster = text_or_none("--address", address)
    said = batch_rule is not None or lr_rule is not None
    rule = WorkerRule(batch=FIXED_GLOBAL if batch_rule is None else batch_rule, lr=lr_rule)
    return TrainRequest(
        settings=found,
        options=TrainOptions(
            storage=where,
            name=check_name("--name", default_name(found, where) if name is None else name),
            workers=None if workers is None else int(COUNT.check("--workers", workers)),
            rule=rule if said else None,
            shape=shape,
            room=awaited_room(await_workers, shape, cluster),
            threads=cpus_per_worker,
            checkpoint_storage=text_or_none("--checkpoint-storage", checkpoint_storage),
            max_failures=int(RESTARTS.check("--max-failures", max_failures)),
            tracking_uri=mlflow_uri(tracking_uri),
            address=cluster,
            resume=bool(resume),
            register=register,
        ),
        console=progress_console(console),
    )


@taking(train_request)
def train(request: TrainRequest) -> dict[str, Any]:
    """Train a setting to its end, and read the test split once.

    Returns:
        The document that ``esam-tune train --json`` prints: metrics, history, paths, MLflow's ids.

    Raises:
        InputError: for what can be seen to be wrong before anything starts.
        RunFailedError: when the training did not reach its end, or its model is not registered
            under the name that was asked for.
        KeyboardInterrupt: after an interruption; ``resume=True`` goes on from the last checkpoint.
    """
    name = request.options.name
    again = f"the training {name!r}, which name={name!r}, resume=True goes on with if it has begun"
    with interruptible(again):
        document = train_chosen(request.settings, request.options, request.show_epoch)
    if request.options.register and document["registered"] is None:
        folder = training_folder(request.options.storage, name)
        raise RunFailedError(
            f"MLflow did not register the model, which is kept in {str(folder.path)!r}: "
            f"name={name!r}, resume=True tries again"
        )
    return document

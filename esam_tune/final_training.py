"""Training of a chosen setting, with the one reading of the test split."""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from esam_tune.checkpoint_storage import (
    OPTION,
    check_checkpoint_storage,
    join,
    normalise,
    remove,
)
from esam_tune.config import TrialSettings, check_precision, trial_settings
from esam_tune.errors import InputError, RunFailedError
from esam_tune.metrics import EPOCH, reported
from esam_tune.run_state import load_weights
from esam_tune.study import cluster
from esam_tune.study.folder import check_storage, reserved_folder, scratch_folder
from esam_tune.study.node_data import check_all_nodes_have
from esam_tune.study.placement import WorkerShape, place
from esam_tune.study.shared_storage import check_all_nodes_see
from esam_tune.study.spec import describe_params
from esam_tune.tracking.final import log_training
from esam_tune.tracking.store import (
    artifact_root,
    check_uri,
    error_text,
    local_uri,
    without_credentials,
)
from esam_tune.trial import FAILURE, MAX_FAILURES, RunRequest, run_here
from esam_tune.worker_scaling import ScaledSettings, WorkerRule, scale_settings

_log = logging.getLogger(__name__)

WEIGHTS = "weights.pt"
_MODELS = "models"
# A run on a cluster may lose a worker or a node.
_CHECKPOINT_SECONDS = 60.0

OnEpoch = Callable[[dict[str, float | None]], None]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a setting is trained, as opposed to what it is.

    Args:
        storage: folder that receives ``models/NAME/``.
        name: of the run, a new folder.
        workers: processes that train it together.
        rule: what becomes of the setting when it was found with another worker count.
        shape: what each worker takes.
        threads: CPU cores of a single local worker, or None for all there are.
        checkpoint_storage: folder that all nodes share, or URI, for the checkpoint that brings the
            weights back; None for ``storage``.
        max_failures: restarts after a lost process, worker or node.
        tracking_uri: of MLflow, or None for the store inside ``storage``.
        address: of a Ray cluster for more than one worker, or None to start one.
    """

    storage: Path
    name: str
    workers: int = 1
    rule: WorkerRule = field(default_factory=WorkerRule)
    shape: WorkerShape = field(default_factory=WorkerShape)
    threads: int | None = None
    checkpoint_storage: str | None = None
    max_failures: int = MAX_FAILURES
    tracking_uri: str | None = None
    address: str | None = None


def train_chosen(
    settings: TrialSettings, options: TrainOptions, on_epoch: OnEpoch
) -> dict[str, Any]:
    """Train a setting, read the test split once, and keep weights, history and result.

    Args:
        settings: of the run, as they were found; they are brought to ``options.workers`` by
            ``options.rule``.
        options: where and on how many workers.
        on_epoch: receives each epoch's metrics.

    Returns:
        The JSON document that ``esam-tune train`` prints.

    Raises:
        InputError: for whatever can be seen to be wrong before anything starts.
        RunFailedError: when the training did not reach its end; nothing is left behind.
    """
    uri = options.tracking_uri or local_uri(options.storage)
    scaled = _preflight(settings, options, uri)
    # Taken now: a name that another process takes meanwhile would cost the whole training.
    with reserved_folder(model_folder(options.storage, options.name), "--name") as folder:
        return _train(scaled, options, uri, folder, on_epoch)


def _train(
    scaled: ScaledSettings, options: TrainOptions, uri: str, folder: Path, on_epoch: OnEpoch
) -> dict[str, Any]:
    settings = scaled.settings
    history: list[dict[str, float | None]] = []

    def receive(report: dict[str, Any]) -> None:
        if FAILURE in report:
            raise RunFailedError(f"training failed: {report[FAILURE]}")
        if EPOCH not in report:
            return
        # A group that lost a worker goes on from its last checkpoint, some epochs back.
        if history and report[EPOCH] <= (history[-1][EPOCH] or 0):
            return
        history.append(reported(report))
        on_epoch(history[-1])

    request = RunRequest(
        settings=settings.to_dict(),
        run_id=options.name,
        storage="",
        workers=options.workers,
        max_failures=options.max_failures,
        read_test=True,
    )
    started = time.time()
    if options.workers == 1 and options.address is None:
        weights = _train_here(request, options, receive)
    else:
        weights = _train_on_cluster(request, options, receive)
    _save_weights(weights, folder / WEIGHTS)
    document = {
        "settings": settings.to_dict(),
        "workers": options.workers,
        "scaling": scaled.to_dict(),
        "metrics": history[-1],
        "history": history,
        "seconds": time.time() - started,
        "weights": str(folder / WEIGHTS),
        "tracking_uri": without_credentials(uri),
        "mlflow_run_id": None,
    }
    (folder / "result.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    try:
        document["mlflow_run_id"] = log_training(
            uri,
            artifact_root(options.storage, uri),
            name=f"{options.name}: {describe_params(settings.params)}",
            document=document,
            params=scaled.params(),
            started=started,
            artifacts=[folder / WEIGHTS, folder / "result.json"],
        )
    except Exception as error:  # noqa: BLE001 - the result is on disk: tracking must not lose it
        reason = error_text(error, uri)
        _log.warning("MLflow did not take the run (%s); it is kept in %s", reason, folder)
    return document


def model_folder(storage: Path, name: str) -> Path:
    """Where a training keeps its weights, history and result."""
    return (storage / _MODELS / name).absolute()


def default_name(settings: TrialSettings, storage: Path) -> str:
    """A name that is not taken: the study and trial the settings come from, and a count."""
    origin = settings.origin
    known = {"study", "trial_id"} <= origin.keys()
    stem = f"{origin['study']}-{origin['trial_id']}" if known else "model"
    taken = {path.name for path in (storage / _MODELS).glob("*")}
    count = 1
    while (name := stem if count == 1 else f"{stem}-{count}") in taken:
        count += 1
    return name


def _preflight(settings: TrialSettings, options: TrainOptions, uri: str) -> ScaledSettings:
    """Check all that needs no cluster; the settings as they are on so many workers."""
    check_storage(options.storage)
    folder = model_folder(options.storage, options.name)
    if folder.exists():
        raise InputError(
            "--name",
            f"a model {options.name!r} exists in {str(folder.parent)!r}",
            "choose another --name",
        )
    cluster.check_address(options.address)
    if options.address is None:
        nodes, shape = cluster.local_nodes(), options.shape
        here = place(nodes, options.workers, 1, "--workers", shape=shape, where="this machine")
        check_precision(settings.training, gpu=here.gpus_per_worker > 0)
    if options.checkpoint_storage is not None:
        check_checkpoint_storage(normalise(options.checkpoint_storage))
    if uri != local_uri(options.storage):
        check_uri(uri)
    from esam_tune.tasks.data import check_batch_size, checked_train_split, load_split

    scaled = scale_settings(settings, options.workers, options.rule)
    batch_size = scaled.settings.training.batch_size
    check_batch_size(batch_size, options.workers, checked_train_split(settings.task))
    # Found missing at the end, it would cost the whole training. Its images are not evaluated here.
    load_split(settings.task, "test")
    return scaled


def _train_here(
    request: RunRequest, options: TrainOptions, receive: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    import torch

    from esam_tune.training import DivergedError

    gpus = float(torch.cuda.is_available()) if options.shape.gpus is None else options.shape.gpus
    threads = options.threads or cluster.local_cores()
    request = replace(request, threads=threads, gpus_per_worker=gpus, checkpoint_seconds=math.inf)
    weights: dict[str, Any] = {}

    def keep(metrics: dict[str, Any], folder: str | None) -> None:
        if folder:
            weights.update(load_weights(folder))
        receive(metrics)

    try:
        run_here(request, keep)
        return weights
    except DivergedError as error:
        raise RunFailedError(f"training failed: {error}") from None


def _train_on_cluster(
    request: RunRequest, options: TrainOptions, receive: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    with (
        cluster.connected(options.address, distributed=request.grouped) as nodes,
        _scratch(options) as scratch,
    ):
        from esam_tune.study.runner import run_single

        placement = place(nodes, request.workers, 1, "--workers", shape=options.shape)
        settings = trial_settings(request.settings)
        check_precision(settings.training, gpu=placement.gpus_per_worker > 0)
        check_all_nodes_see(scratch, OPTION if options.checkpoint_storage else "--storage")
        check_all_nodes_have(settings.task, placement.gpus_per_worker)
        request = replace(
            request,
            gpus_per_worker=placement.gpus_per_worker,
            threads=placement.threads,
            checkpoint_seconds=_CHECKPOINT_SECONDS,
            storage=join(scratch, "groups"),
        )
        with run_single(request, join(scratch, "tune"), receive).as_directory() as kept:
            return load_weights(kept)


@contextmanager
def _scratch(options: TrainOptions) -> Iterator[str]:
    """A place for the run's checkpoint and Tune's files that does not outlast it."""
    name = f".{options.name}-{uuid.uuid4().hex[:12]}"
    if options.checkpoint_storage is None:
        with scratch_folder(model_folder(options.storage, name)) as folder:
            yield str(folder)
        return
    where = join(normalise(options.checkpoint_storage), name)
    try:
        yield where
    finally:
        try:
            remove(where)
        except (OSError, ValueError) as error:
            _log.warning("checkpoints at %s could not be removed (%s)", where, error)


def _save_weights(weights: dict[str, Any], path: Path) -> None:
    import torch

    scratch = path.with_suffix(".tmp")
    try:
        torch.save(weights, scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)

"""Training of a chosen setting, with the one reading of the test split."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from esam_tune.config import TrialSettings
from esam_tune.errors import InputError, RunFailedError
from esam_tune.metrics import reported
from esam_tune.study import cluster
from esam_tune.study.folder import check_storage
from esam_tune.study.spec import describe_params
from esam_tune.tracking.final import log_training
from esam_tune.tracking.store import artifact_root, check_uri, local_uri, without_credentials
from esam_tune.trial import FAILURE, RunRequest, load_weights, run_here

_log = logging.getLogger(__name__)

OnEpoch = Callable[[dict[str, float | None]], None]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a setting is trained, as opposed to what it is.

    Args:
        storage: folder that receives ``models/NAME/``.
        name: of the run, a new folder.
        workers: processes that train it together.
        tracking_uri: of MLflow, or None for the store inside ``storage``.
        address: of a Ray cluster for more than one worker, or None to start one.
    """

    storage: Path
    name: str
    workers: int = 1
    tracking_uri: str | None = None
    address: str | None = None


def train_chosen(
    settings: TrialSettings, options: TrainOptions, on_epoch: OnEpoch
) -> dict[str, Any]:
    """Train a setting, read the test split once, and keep weights, history and result.

    Args:
        settings: of the run.
        options: where and on how many workers.
        on_epoch: receives each epoch's metrics.

    Returns:
        The JSON document that ``esam-tune train`` prints.

    Raises:
        InputError: for whatever can be seen to be wrong before anything starts.
        RunFailedError: when the training did not reach its end; nothing is left behind.
    """
    uri = options.tracking_uri or local_uri(options.storage)
    _preflight(settings, options, uri)
    folder = (options.storage / "models" / options.name).absolute()
    history: list[dict[str, float | None]] = []

    def receive(report: dict[str, Any]) -> None:
        if FAILURE in report:
            raise RunFailedError(f"training failed: {report[FAILURE]}")
        history.append(reported(report))
        on_epoch(history[-1])

    request = RunRequest(
        settings=settings.to_dict(),
        run_id=options.name,
        storage="",
        workers=options.workers,
        checkpoint_seconds=math.inf,
        read_test=True,
    )
    started = time.time()
    if options.workers == 1 and options.address is None:
        weights = _train_here(request, receive)
    else:
        weights = _train_on_cluster(request, options.address, receive)
    folder.mkdir(parents=True)
    _save_weights(weights, folder / "weights.pt")
    document = {
        "settings": settings.to_dict(),
        "workers": options.workers,
        "metrics": history[-1],
        "history": history,
        "seconds": time.time() - started,
        "weights": str(folder / "weights.pt"),
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
            started=started,
            artifacts=[folder / "weights.pt", folder / "result.json"],
        )
    except Exception as error:  # noqa: BLE001 - the result is on disk: tracking must not lose it
        _log.warning("MLflow did not take the run (%s); it is kept in %s", error, folder)
    return document


def default_name(settings: TrialSettings, storage: Path) -> str:
    """A name that is not taken: the study and trial the settings come from, and a count."""
    origin = settings.origin
    known = {"study", "trial_id"} <= origin.keys()
    stem = f"{origin['study']}-{origin['trial_id']}" if known else "model"
    taken = {path.name for path in (storage / "models").glob("*")}
    count = 1
    while (name := stem if count == 1 else f"{stem}-{count}") in taken:
        count += 1
    return name


def _preflight(settings: TrialSettings, options: TrainOptions, uri: str) -> None:
    check_storage(options.storage)
    if (options.storage / "models" / options.name).exists():
        raise InputError(
            "--name",
            f"a model {options.name!r} exists in {str(options.storage / 'models')!r}",
            "choose another --name",
        )
    if options.address is None:
        cluster.check_workers(options.workers, cluster.local_cores(), "this machine", "--workers")
    cluster.check_address(options.address)
    if uri != local_uri(options.storage):
        check_uri(uri)
    from esam_tune.tasks.data import check_batch_size, load_split

    check_batch_size(
        settings.training.batch_size, options.workers, load_split(settings.task, "train")
    )


def _train_here(request: RunRequest, receive: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    import torch

    from esam_tune.training import DivergedError

    gpus = 1.0 if torch.cuda.is_available() else 0.0
    request = replace(request, threads=cluster.local_cores(), gpus_per_worker=gpus)
    try:
        return run_here(request, receive)
    except DivergedError as error:
        raise RunFailedError(f"training failed: {error}") from None


def _train_on_cluster(
    request: RunRequest, address: str | None, receive: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    with (
        cluster.connected(address, distributed=True) as resources,
        tempfile.TemporaryDirectory(prefix="esam-tune-") as scratch,
    ):
        from esam_tune.study.runner import run_single

        placement = cluster.place(resources, request.workers, 1, "--workers")
        request = replace(
            request, gpus_per_worker=placement.gpus_per_worker, storage=f"{scratch}/groups"
        )
        with run_single(request, Path(scratch, "tune"), receive).as_directory() as kept:
            return load_weights(kept)


def _save_weights(weights: dict[str, Any], path: Path) -> None:
    import torch

    torch.save(weights, path)

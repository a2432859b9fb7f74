"""Carries a final training out: in this process, or on a cluster's worker group."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from esam_tune.checkpoint_storage import OPTION, join, open_storage, remove
from esam_tune.config import check_precision
from esam_tune.errors import InputError, RunFailedError
from esam_tune.failures import describe
from esam_tune.final_training.plan import Plan, TrainOptions
from esam_tune.final_training.recorder import KEPT, HopelessError, Recorder
from esam_tune.metrics import EPOCH
from esam_tune.run_state import load_weights
from esam_tune.study import cluster
from esam_tune.study.awaited_room import with_room
from esam_tune.study.node_data import check_all_nodes_have
from esam_tune.study.placement import place
from esam_tune.study.shared_storage import check_all_nodes_see
from esam_tune.trial import RunRequest, run_here

_log = logging.getLogger(__name__)

# Least time between two checkpoints. On a cluster one may have to travel to an object store.
_SECONDS_HERE = 5.0
_SECONDS_ON_CLUSTER = 60.0


def carry_out(plan: Plan, options: TrainOptions, recorder: Recorder) -> None:
    """Train what is left, and hand the reports and the weights to the recorder.

    Raises:
        RunFailedError: when the training did not reach its end.
    """
    request = RunRequest(
        settings=plan.settings.to_dict(),
        run_id=plan.folder.name,
        storage=str(plan.folder.path),
        workers=plan.workers,
        threads=plan.threads,
        max_failures=options.max_failures,
        read_test=True,
    )
    if plan.workers == 1 and options.address is None:
        _train_here(request, plan, options, recorder)
    else:
        _train_on_cluster(request, plan, options, recorder)


def _train_here(request: RunRequest, plan: Plan, options: TrainOptions, recorder: Recorder) -> None:
    import torch

    from esam_tune.training import DivergedError

    def receive(metrics: dict[str, Any], folder: str | None) -> None:
        recorder.receive(metrics)
        if folder is None:
            return
        if metrics[EPOCH] == plan.settings.training.epochs:
            recorder.finish(load_weights(folder))
            return
        try:
            kept = _keep(folder, plan.folder.checkpoints, int(metrics[EPOCH]))
        except OSError as error:
            _log.warning("a checkpoint could not be written (%s); training goes on", error)
            return
        recorder.checkpoint(str(kept))
        for path in sorted(plan.folder.checkpoints.iterdir())[:-KEPT]:
            shutil.rmtree(path, ignore_errors=True)

    gpus = float(torch.cuda.is_available()) if options.shape.gpus is None else options.shape.gpus
    request = replace(
        request,
        gpus_per_worker=gpus,
        checkpoint_seconds=_SECONDS_HERE,
        resume_from=recorder.checkpoints(request.storage),
    )
    try:
        run_here(request, receive)
    except DivergedError as error:
        raise HopelessError(f"training failed: {error}") from None
    except (InputError, RunFailedError, OSError):
        raise
    except Exception as error:
        # As a worker on a cluster tells it: a device whose memory is full, for one.
        raise RunFailedError(f"training failed: {describe(error)}") from error


def _keep(source: str, folder: Path, epoch: int) -> Path:
    """Copy a checkpoint into a folder of them: it is there whole or not at all."""
    folder.mkdir(exist_ok=True)
    scratch, target = folder / ".new", folder / f"epoch_{epoch:08d}"
    for left in (scratch, target):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(source, scratch)
    for path in (*scratch.iterdir(), scratch):
        _sync(path)
    scratch.replace(target)
    _sync(folder)
    return target


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _train_on_cluster(
    request: RunRequest, plan: Plan, options: TrainOptions, recorder: Recorder
) -> None:
    root = checkpoint_root(plan, recorder.record.training_id)
    with cluster.connected(options.address, distributed=request.grouped) as nodes:
        from esam_tune.study.runner import run_single

        nodes = with_room(nodes, options.room)
        placement = place(nodes, request.workers, 1, "--workers", shape=options.shape)
        check_precision(plan.settings.training, gpu=placement.gpus_per_worker > 0)
        check_all_nodes_see(root, OPTION if plan.checkpoint_storage else "--storage")
        check_all_nodes_have(plan.settings.task, placement.gpus_per_worker)
        resume_from = recorder.checkpoints(root)
        _remove_earlier(root, recorder.record.attempts, resume_from)
        # Ray takes up by itself what it finds under a name that it knows.
        where = join(root, f"{recorder.record.attempts:03d}")
        request = replace(
            request,
            gpus_per_worker=placement.gpus_per_worker,
            threads=placement.threads,
            checkpoint_seconds=_SECONDS_ON_CLUSTER,
            storage=join(where, "groups"),
            resume_from=resume_from,
        )
        with run_single(request, join(where, "tune"), recorder.receive).as_directory() as kept:
            recorder.finish(load_weights(kept))


def checkpoint_root(plan: Plan, training_id: str) -> str:
    """Folder or URI of a training's checkpoints.

    In an object store trainings of several storages may have the same name, so it bears an id.
    """
    if plan.checkpoint_storage is None:
        return str(plan.folder.checkpoints)
    return join(plan.checkpoint_storage, f"{plan.folder.name}-{training_id[:12]}")


def drop_checkpoints(plan: Plan, training_id: str) -> None:
    """Remove a training's checkpoints, which a finished one has no use for."""
    root = checkpoint_root(plan, training_id)
    try:
        remove(root)
    except (OSError, ValueError) as error:
        _log.warning("checkpoints at %s could not be removed (%s)", root, error)


def _remove_earlier(root: str, attempts: int, resume_from: tuple[str, ...]) -> None:
    """Remove what earlier processes left, but for the checkpoints to go on from."""
    for attempt in range(1, attempts):
        where = join(root, f"{attempt:03d}")
        try:
            folder = f"{open_storage(where)[1]}/"
            if not any(path.startswith(folder) for path in resume_from):
                remove(where)
        except (OSError, ValueError) as error:
            _log.warning("checkpoints at %s could not be removed (%s)", where, error)

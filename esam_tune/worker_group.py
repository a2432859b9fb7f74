"""A run of several workers: a ``TorchTrainer`` worker group inside a Tune trial."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray import train, tune
from ray.train import UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from esam_tune.checkpoint_storage import ray_arguments
from esam_tune.failures import RunFailure, describe, failure_of
from esam_tune.trial import FAILURE, WORKERS, RunRequest, run_worker, worker_device

_log = logging.getLogger(__name__)

# How often a group that runs with fewer workers than it may have asks for more.
_RESIZE_SECONDS = 60.0
# How long a group waits for room. A range of workers is tried anew, with what nodes are left by
# then: Ray counts a lost node in for some seconds.
_ROOM_VARIABLE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_ROOM_SECONDS, _ELASTIC_ROOM_SECONDS = "300", "30"


class _NoVainRetries(UserCallback):  # type: ignore[misc]
    """Ends a group over a failure that another attempt would repeat; Ray would try them all."""

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """What is raised here, in the group's controller, is not tried again."""
        for error in worker_exceptions.values():
            if isinstance(error, RunFailure) and error.final:
                raise error


def run_in_group(request: Mapping[str, Any]) -> None:
    """Tune trainable: drive a worker group that trains the request, and pass its reports on."""
    run = RunRequest(**request)
    # Ray hands this on to the group's controller, wherever that runs.
    os.environ[_ROOM_VARIABLE] = _ELASTIC_ROOM_SECONDS if run.min_workers else _ROOM_SECONDS
    trainer = TorchTrainer(
        train_group_member,
        train_loop_config=run.to_dict(),
        **worker_group(
            (run.min_workers, run.workers) if run.min_workers else run.workers,
            run.threads,
            run.gpus_per_worker,
        ),
        run_config=train.RunConfig(
            name=run.run_id,
            callbacks=[TuneReportCallback(), _NoVainRetries()],
            # A node that its cloud takes back is no failure: Ray does not count it as one.
            failure_config=train.FailureConfig(max_failures=run.max_failures),
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
            **ray_arguments(run.storage),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # noqa: BLE001 - a failed trial must not end the study
        _log.exception("trial %s failed", run.run_id)
        tune.report({FAILURE: describe(error)})


def worker_group(
    workers: int | tuple[int, int], threads: int, gpus_per_worker: float
) -> dict[str, Any]:
    """``torch_config`` and ``scaling_config`` of a ``TorchTrainer``.

    Args:
        workers: in the group, or the fewest and the most of them.
        threads: CPU cores of each.
        gpus_per_worker: GPUs of each, or its share of one.
    """
    resources = {"CPU": float(threads), **({"GPU": gpus_per_worker} if gpus_per_worker else {})}
    return {
        # NCCL refuses two workers of a group on one GPU, which shares of it bring about.
        "torch_config": TorchConfig(backend="gloo" if 0 < gpus_per_worker < 1 else None),
        "scaling_config": train.ScalingConfig(
            num_workers=workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=_RESIZE_SECONDS,
        ),
    }


def train_group_member(request: Mapping[str, Any]) -> None:
    """What each worker of a group runs."""

    def emit(metrics: dict[str, Any], folder: str | None) -> None:
        checkpoint = train.Checkpoint.from_directory(folder) if folder else None
        if run.min_workers is not None:
            metrics[WORKERS] = run.workers
        train.report(metrics, checkpoint=checkpoint)

    context = train.get_context()
    # With an elastic range the count is what the cluster had room for, this time.
    run = replace(RunRequest(**request), workers=context.get_world_size())
    rank, kept = context.get_world_rank(), train.get_checkpoint()
    try:
        run_worker(
            run,
            emit,
            kept and kept.path,
            rank=rank,
            device=worker_device(run.gpus_per_worker, grouped=True),
            # A node's cloud tells some time before it takes the node back; all workers must ask.
            leaving=lambda: train.get_preemption_info() is not None,
        )
    except Exception as error:  # noqa: BLE001 - said again in one line, with its place
        _log.exception("worker %d of trial %s failed", rank, run.run_id)
        raise failure_of(error, f"worker {rank}") from None

"""One setting -> one run: in this process, or on a ``TorchTrainer`` worker group.

Both run the same :func:`esam_tune.training.train`; they differ in who receives its reports.
"""

import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from esam_tune.checkpoint_storage import is_remote, open_storage, ray_arguments
from esam_tune.config import trial_settings
from esam_tune.run_state import load_state, save_state

_log = logging.getLogger(__name__)

# Keys of a report beside the metrics.
FAILURE = "failure"
CHECKPOINT_PATH = "checkpoint_path"
# In the reports of an elastic group: how many workers trained this epoch.
WORKERS = "workers"

# Restarts of a trial from its last checkpoint, after a lost process, worker or node.
MAX_FAILURES = 2
_MORE_MEMORY = "out of memory: use a smaller batch_size, precision bf16, or more workers a trial"
# How often a group that runs with fewer workers than it may have asks for more.
_RESIZE_SECONDS = 60.0
# How long a group waits for room. A range of workers is tried anew, with what nodes are left by
# then: Ray counts a lost node in for some seconds.
_ROOM_VARIABLE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_ROOM_SECONDS, _ELASTIC_ROOM_SECONDS = "300", "30"


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """One run, in plain values that travel to another process.

    Args:
        settings: a settings document, see :func:`esam_tune.config.trial_settings`.
        run_id: names the run and its folder in ``storage``.
        storage: folder or URI that receives a worker group's checkpoints, and on whose file system
            ``resume_from`` lies.
        workers: processes that train it together; the most of them where ``min_workers`` is set.
        min_workers: the fewest it goes on with when nodes are lost or not to be had; None keeps
            the count fixed.
        gpus_per_worker: 0 trains on the CPU, a share lets several workers use one GPU.
        threads: of torch in each worker, and CPU cores it takes.
        max_failures: restarts from the last checkpoint after a lost process, worker or node.
        resume_from: checkpoint folder of an earlier process, without a scheme, or None.
        checkpoint_seconds: least time between two checkpoints.
        read_test: whether this is a final training: after the last epoch the test split is read
            and a checkpoint is kept.
    """

    settings: Mapping[str, Any]
    run_id: str
    storage: str
    workers: int = 1
    min_workers: int | None = None
    gpus_per_worker: float = 0.0
    threads: int = 1
    max_failures: int = MAX_FAILURES
    resume_from: str | None = None
    checkpoint_seconds: float = 5.0
    read_test: bool = False

    @property
    def grouped(self) -> bool:
        """Whether it takes a worker group."""
        return self.workers > 1 or self.min_workers is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the runners take them."""
        return asdict(self)


class _Emit(Protocol):
    """Hands a report to whoever runs the trial; ``folder`` holds a checkpoint to keep."""

    def __call__(self, metrics: dict[str, Any], folder: str | None, /) -> None: ...


def run_in_process(request: Mapping[str, Any]) -> None:
    """Tune trainable: train a one-worker request in this very process."""
    from ray import tune

    def emit(metrics: dict[str, Any], folder: str | None) -> None:
        checkpoint = tune.Checkpoint.from_directory(folder) if folder else None
        tune.report(metrics, checkpoint=checkpoint)

    run = RunRequest(**request)
    try:
        _run(run, emit, tune.get_checkpoint(), rank=0, device=worker_device(run.gpus_per_worker))
    except Exception as error:  # noqa: BLE001 - a failed trial must not end the study or its actor
        _log.exception("trial %s failed", run.run_id)
        tune.report({FAILURE: f"{describe(error)} ({_host()})"})


def run_here(run: RunRequest, receive: Callable[[dict[str, Any], str | None], None]) -> None:
    """Train a one-worker request in this very process, without Ray.

    Args:
        run: the request; its storage is a folder.
        receive: takes each epoch's metrics, and the folder of its checkpoint, which is removed
            when it returns, or None.

    Raises:
        DivergedError: when the loss is no longer finite.
    """
    _run(run, receive, None, rank=0, device=worker_device(run.gpus_per_worker))


def run_in_group(request: Mapping[str, Any]) -> None:
    """Tune trainable: drive a worker group that trains the request, and pass its reports on."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

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
            callbacks=[TuneReportCallback()],
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
    from ray import train
    from ray.train.torch import TorchConfig

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
    from ray import train

    from esam_tune.training import DivergedError

    def emit(metrics: dict[str, Any], folder: str | None) -> None:
        checkpoint = train.Checkpoint.from_directory(folder) if folder else None
        if run.min_workers is not None:
            metrics[WORKERS] = run.workers
        train.report(metrics, checkpoint=checkpoint)

    context = train.get_context()
    # With an elastic range the count is what the cluster had room for, this time.
    run = replace(RunRequest(**request), workers=context.get_world_size())
    rank = context.get_world_rank()
    try:
        _run(
            run,
            emit,
            train.get_checkpoint(),
            rank=rank,
            device=worker_device(run.gpus_per_worker, grouped=True),
            # A node's cloud tells some time before it takes the node back; all workers must ask.
            leaving=lambda: train.get_preemption_info() is not None,
        )
    except DivergedError as error:
        # Every worker sees the same loss and comes here: no restart would help.
        emit({FAILURE: describe(error)}, None)
    except Exception as error:  # noqa: BLE001 - said again in one line, with its place
        _log.exception("worker %d of trial %s failed", rank, run.run_id)
        raise RuntimeError(f"{describe(error)} (worker {rank} on {_host()})") from None


def describe(error: BaseException) -> str:
    """One line that says why a run failed, without the tracebacks that wrappers put into it."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    said = f"{type(cause).__name__}: {lines[-1] if lines else 'no message'}"
    # A worker's reason comes by here again, in its group's error.
    if _out_of_memory(cause) and _MORE_MEMORY not in said:
        said += f"; {_MORE_MEMORY}"
    return said


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a GPU's, a node's as Ray guards it, or what the system gives."""
    # By name: torch and Ray each have a class of it, and neither need be imported here.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _host() -> str:
    """This node in the words of a failure's reason."""
    return f"node {socket.gethostname()}"


def worker_device(gpus_per_worker: float, *, grouped: bool = False) -> Any:
    """The worker's device; the CPU where a GPU is promised by name alone, as in a test cluster."""
    import torch

    if not gpus_per_worker or not torch.cuda.is_available():
        return torch.device("cpu")
    if grouped:
        from ray.train.torch import get_device

        return get_device()
    return torch.device("cuda")


def _run(
    run: RunRequest,
    emit: _Emit,
    own_checkpoint: Any,
    *,
    rank: int,
    device: Any,
    leaving: Callable[[], bool] = lambda: False,
) -> None:
    """Train, continuing from the newest checkpoint there is, and emit each epoch's report.

    Args:
        run: the request.
        emit: receives the reports.
        own_checkpoint: a Ray checkpoint of this very attempt's predecessor, or None.
        rank: of this worker.
        device: torch device of this worker.
        leaving: whether a node is about to be taken away, so that a checkpoint is due now.
    """
    import torch

    from esam_tune.training import Worker, train

    torch.set_num_threads(run.threads)
    worker = Worker(rank=rank, workers=run.workers, device=device)
    settings = trial_settings(run.settings)
    last_epoch = settings.training.epochs
    last_saved = time.monotonic()

    def report(metrics: dict[str, float], state: Callable[[], dict[str, Any]]) -> None:
        nonlocal last_saved
        waited = time.monotonic() - last_saved
        due = leaving() or waited >= run.checkpoint_seconds
        wanted = run.read_test if metrics["epoch"] == last_epoch else due
        # The clocks of the workers differ: the first worker decides for all.
        if not worker.sum(torch.tensor(float(wanted and rank == 0), device=device)):
            emit(dict(metrics), None)
            return
        with tempfile.TemporaryDirectory(prefix="esam-tune-") as folder:
            save_state(folder, rank, run.workers, state())
            emit(dict(metrics), folder)
        last_saved = time.monotonic()

    train(
        settings,
        report,
        worker=worker,
        resume=_load_state(own_checkpoint, run, rank),
        read_test=run.read_test,
    )


def _load_state(own_checkpoint: Any, run: RunRequest, rank: int) -> dict[str, Any] | None:
    checkpoint = own_checkpoint
    if checkpoint is None:
        if run.resume_from is None:
            return None
        if not is_remote(run.storage):
            return load_state(run.resume_from, rank)
        from ray.train import Checkpoint

        checkpoint = Checkpoint(run.resume_from, filesystem=open_storage(run.storage)[0])
    with checkpoint.as_directory() as folder:
        return load_state(folder, rank)

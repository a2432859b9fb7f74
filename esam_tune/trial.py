"""One setting -> one run: what is asked for, and how one worker carries it out.

All runs go through the same :func:`esam_tune.training.train`; they differ in who receives its
reports: Tune, a caller in this process, or a worker group (:mod:`esam_tune.worker_group`).
"""

import ctypes
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from esam_tune.checkpoint_storage import staging
from esam_tune.config import trial_settings
from esam_tune.failures import failure_of
from esam_tune.resumption import Resumption, candidates, resume
from esam_tune.run_state import run_identity, save_state

_log = logging.getLogger(__name__)

# Keys of a report beside the metrics.
FAILURE = "failure"
CHECKPOINT_PATH = "checkpoint_path"
# In the reports of an elastic group: how many workers trained this epoch.
WORKERS = "workers"
# In the first report after a restart: why newer checkpoints than the one in use were refused.
REFUSED = "refused_checkpoints"

# Restarts of a trial from its last checkpoint, after a lost process, worker or node.
MAX_FAILURES = 2
# Seconds without a report after which a trial has hung.
MAX_EPOCH_SECONDS = 6 * 3600.0


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
        max_epoch_seconds: without a report for so long, the run has hung and is ended.
        resume_from: checkpoint folders of earlier processes, without a scheme, newest first: what
            cannot be used is passed over.
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
    max_epoch_seconds: float = MAX_EPOCH_SECONDS
    resume_from: tuple[str, ...] = ()
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

    run, kept = RunRequest(**request), tune.get_checkpoint()
    device = worker_device(run.gpus_per_worker)
    try:
        run_worker(run, emit, kept and kept.path, rank=0, device=device)
    except Exception as error:  # noqa: BLE001 - said again in one line, with its place
        _log.exception("trial %s failed", run.run_id)
        failure = failure_of(error)
        if not failure.final:
            # Tune tries it again from its last checkpoint, in a new process.
            raise failure from None
        tune.report({FAILURE: str(failure)})
    finally:
        _give_back_memory()


def run_here(run: RunRequest, receive: Callable[[dict[str, Any], str | None], None]) -> None:
    """Train a one-worker request in this very process, without Ray.

    Args:
        run: the request; its storage is a folder.
        receive: takes each epoch's metrics, and the folder of its checkpoint, which is removed
            when it returns, or None.

    Raises:
        DivergedError: when the loss is no longer finite.
    """
    # The receiver copies what it keeps: a disk that is full there must not end the training here.
    here = replace(run, storage="")
    run_worker(here, receive, None, rank=0, device=worker_device(run.gpus_per_worker))


def _give_back_memory() -> None:
    """Hand the system the memory that a trial has freed.

    Tune trains hundreds of trials in one process, each in a thread of its own. glibc keeps what a
    thread frees for later threads, heap by heap: without this a process grows to several times
    what one trial needs. Other C libraries have no such call.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def worker_device(gpus_per_worker: float, *, grouped: bool = False) -> Any:
    """The worker's device; the CPU where a GPU is promised by name alone, as in a test cluster."""
    import torch

    if not gpus_per_worker or not torch.cuda.is_available():
        return torch.device("cpu")
    if grouped:
        from ray.train.torch import get_device

        return get_device()
    return torch.device("cuda")


def run_worker(
    run: RunRequest,
    emit: _Emit,
    own_checkpoint: str | None,
    *,
    rank: int,
    device: Any,
    leaving: Callable[[], bool] = lambda: False,
) -> None:
    """Train, continuing from the newest usable checkpoint, and emit each epoch's report.

    Args:
        run: the request.
        emit: receives the reports.
        own_checkpoint: path of the last checkpoint of this attempt's predecessor, or None.
        rank: of this worker.
        device: torch device of this worker.
        leaving: whether a node is about to be taken away, so that a checkpoint is due now.
    """
    import torch

    from esam_tune.training import train
    from esam_tune.worker import Worker

    torch.set_num_threads(run.threads)
    worker = Worker(rank=rank, workers=run.workers, device=device)
    settings = trial_settings(run.settings)
    identity = run_identity(run.settings)
    last_epoch = settings.training.epochs
    last_saved = time.monotonic()
    paths = candidates(run.storage, own_checkpoint, run.resume_from)
    found = resume(run.storage, paths, rank, identity)
    _agree(worker, found)
    refused = list(found.refused)

    def report(metrics: dict[str, float], state: Callable[[], dict[str, Any]]) -> None:
        nonlocal last_saved
        told: dict[str, Any] = dict(metrics)
        if refused:
            told[REFUSED] = list(refused)
            refused.clear()
        waited = time.monotonic() - last_saved
        due = leaving() or waited >= run.checkpoint_seconds
        wanted = run.read_test if metrics["epoch"] == last_epoch else due
        # The clocks of the workers differ: the first worker decides for all.
        if not worker.sum(torch.tensor(float(wanted and rank == 0), device=device)):
            emit(told, None)
            return
        with staging(run.storage) as folder:
            save_state(folder, rank, run.workers, state(), run=identity)
            emit(told, folder)
        last_saved = time.monotonic()

    train(settings, report, worker=worker, resume=found.state, read_test=run.read_test)


def _agree(worker: Any, found: Resumption) -> None:
    """Require that all workers go on from the same epoch; a storage may show them different files.

    Raises:
        RuntimeError: on all of them.
    """
    import torch

    epoch = torch.tensor([found.epoch, found.epoch**2], device=worker.device)
    total, squares = worker.sum(epoch).tolist()
    if worker.workers * squares != total**2:
        raise RuntimeError(
            f"the workers found checkpoints of different epochs, this one epoch {found.epoch}"
        )

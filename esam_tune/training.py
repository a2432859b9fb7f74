"""The loop one worker runs. It imports torch alone, so it runs on a bare GPU machine."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esam_tune import metrics as keys
from esam_tune.computation import Computation
from esam_tune.config import TrialSettings
from esam_tune.optim import PerSampleOptimizer
from esam_tune.optimization import build_base, build_optimizer, build_schedule, count_flops_ratio
from esam_tune.random_streams import restore_streams, seed_streams, streams_state
from esam_tune.sharpness import measure_sharpness
from esam_tune.step_timer import StepTimer
from esam_tune.tasks.batches import Batches
from esam_tune.tasks.data import check_batch_size, load_split, training_batches
from esam_tune.tasks.models import build_model
from esam_tune.tasks.splits import Split
from esam_tune.worker import Worker


class Report(Protocol):
    """Receives an epoch's metrics, and how to take the state that continues from there."""

    def __call__(self, metrics: dict[str, float], state: Callable[[], dict[str, Any]], /) -> None:
        """Called once an epoch on every worker, with metrics reduced over workers."""


class DivergedError(RuntimeError):
    """The training loss, or a weight, is no longer finite."""


@torch.no_grad()
def _all_finite(model: nn.Module) -> bool:
    return all(bool(weights.isfinite().all()) for weights in model.parameters())


def evaluate(
    model: nn.Module, split: Split, worker: Worker, computation: Computation
) -> tuple[float, float]:
    """Mean cross entropy, without label smoothing, and accuracy (0..1) on a split.

    The workers share the split out among them.
    """
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=worker.device)
    for images, labels in split.share(worker.rank, worker.workers):
        logits = computation.logits(model, images)
        sums[0] += F.cross_entropy(logits, labels, reduction="sum")
        sums[1] += (logits.argmax(1) == labels).sum()
    model.train()
    loss, accuracy = (worker.sum(sums) / len(split)).tolist()
    return loss, accuracy


def train(
    settings: TrialSettings,
    report: Report,
    *,
    worker: Worker | None = None,
    resume: Mapping[str, Any] | None = None,
    read_test: bool = False,
) -> nn.Module:
    """Train one setting and report each epoch.

    Args:
        settings: what and how.
        report: receives each epoch's metrics; see :class:`Report`.
        worker: of several in a trial; one CPU worker if left out.
        resume: a state that ``report`` was offered earlier; training goes on after its epoch and
            on the CPU gives bit for bit what it would have given undisturbed.
        read_test: whether the last epoch's report holds the test split's accuracy and loss too.
            A search leaves it off.

    Returns:
        The trained network, in evaluation mode.

    Raises:
        DivergedError: when an epoch's training loss, or a weight after it, is not finite.
        InputError: when the batch size does not fit the data or the workers, or the device does not
            offer the precision.
    """
    worker = worker or Worker()
    training = settings.training
    computation = Computation(training, worker.device)
    on_train = load_split(settings.task, "train").to(worker.device)
    on_val = load_split(settings.task, "val").to(worker.device)
    check_batch_size(training.batch_size, worker.workers, on_train)

    seed_streams(settings.seed + worker.rank)
    model = build_model(
        settings.task.model, on_train.image_shape, on_train.num_classes, settings.seed
    )
    model = computation.laid_out(model.to(worker.device))
    replica = computation.compiled(worker.replicate(model))
    optimizer = build_optimizer(
        settings.params, training, replica, settings.seed, computation.scaler()
    )
    schedule = build_schedule(training, optimizer.base_optimizer)
    batches = training_batches(
        settings.task,
        on_train,
        training.batch_size,
        settings.seed,
        rank=worker.rank,
        workers=worker.workers,
    )
    timer = StepTimer(
        model,
        lambda copy: build_base(training, copy),
        worker.replicate,
        computation,
        period=optimizer.period,
    )
    flops_ratio = count_flops_ratio(settings, worker.workers)
    first = 1
    if resume is not None:
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])
        schedule.load_state_dict(resume["schedule"])
        batches.load_state_dict(resume["order"])
        timer.load_state_dict(resume["timer"])
        restore_streams(resume["random"], worker.device)
        first = int(resume["epoch"]) + 1

    model.train()
    for epoch in range(first, training.epochs + 1):
        train_loss, seconds = _epoch(
            replica,
            optimizer,
            batches,
            timer,
            worker,
            computation,
            epoch=epoch,
            timed=timer.drawn_steps(batches.steps, epoch, training.epochs),
        )
        if not math.isfinite(train_loss):
            raise DivergedError(f"training loss is {train_loss} in epoch {epoch}")
        schedule.step()
        worker.average_buffers(model)
        time_ratio, seconds = worker.mean([timer.ratio(), seconds])
        val_loss, val_accuracy = evaluate(model, on_val, worker, computation)
        # The training loss is that of the weights before each step: the last step may break them.
        # A loss alone may be infinite for the running statistics of a few steps, and recover.
        if not math.isfinite(val_loss) and not _all_finite(model):
            raise DivergedError(f"weights are not finite after epoch {epoch}")
        measured = {
            keys.EPOCH: epoch,
            keys.TRAIN_LOSS: train_loss,
            keys.VAL_LOSS: val_loss,
            keys.VAL_ACCURACY: val_accuracy,
            keys.STEP_FLOPS_RATIO: flops_ratio,
            keys.STEP_TIME_RATIO: time_ratio,
            keys.EPOCH_SECONDS: seconds,
            keys.IMAGES_PER_SECOND: batches.steps * training.batch_size / seconds,
        }
        if epoch == training.epochs:
            # Once, as it takes about as long as a pass over all of a small training split, and
            # what is wanted is how sharp the minimum is that the run ends in.
            measured[keys.SHARPNESS] = measure_sharpness(
                model, on_train, worker, training.label_smoothing
            )
        if read_test and epoch == training.epochs:
            on_test = load_split(settings.task, "test").to(worker.device)
            measured[keys.TEST_LOSS], measured[keys.TEST_ACCURACY] = evaluate(
                model, on_test, worker, computation
            )

        def state(epoch: int = epoch) -> dict[str, Any]:
            return {
                "epoch": epoch,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "order": batches.state_dict(),
                "timer": timer.state_dict(),
                "random": streams_state(worker.device),
            }

        report(measured, state)
    return model.eval()


def _epoch(
    model: nn.Module,
    optimizer: PerSampleOptimizer,
    batches: Batches,
    timer: StepTimer,
    worker: Worker,
    computation: Computation,
    *,
    epoch: int,
    timed: set[int],
) -> tuple[float, float]:
    """Train one epoch; mean loss at w over all workers, and seconds without measuring cost."""
    loss_sum = torch.zeros((), dtype=torch.float64, device=worker.device)
    taken = (epoch - 1) * batches.steps
    start, aside = time.perf_counter(), 0.0
    for index, (images, labels) in enumerate(batches.epoch()):

        def closure(
            selected: Tensor | None, images: Tensor = images, labels: Tensor = labels
        ) -> Tensor:
            if selected is None:
                return computation.losses(model, images, labels)
            return computation.losses(model, images[selected], labels[selected])

        sharp = taken % optimizer.period == 0
        taken += 1
        with timer.beside(images, labels, sharp=sharp) if index in timed else nullcontext():
            losses = optimizer.step(closure)
        aside += timer.take_aside()
        loss_sum += losses.sum(dtype=torch.float64)
    if worker.device.type == "cuda":
        torch.cuda.synchronize(worker.device)
    seconds = time.perf_counter() - start - aside
    samples = batches.steps * len(labels) * worker.workers
    return float(worker.sum(loss_sum)) / samples, seconds

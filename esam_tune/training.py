"""The loop one worker runs. It imports torch alone, so it runs on a bare GPU machine."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esam_tune import metrics as keys
from esam_tune.computation import Computation
from esam_tune.config import TrialSettings
from esam_tune.optim import PerSampleOptimizer, gradient_sharpness
from esam_tune.optimization import build_base, build_optimizer, build_schedule, count_flops_ratio
from esam_tune.random_streams import restore_streams, seed_streams, streams_state
from esam_tune.step_timer import StepTimer
from esam_tune.tasks.batches import Batches
from esam_tune.tasks.data import check_batch_size, load_split, training_batches
from esam_tune.tasks.models import build_model
from esam_tune.tasks.splits import Split

# Of the training split, for the sharpness: as many as there are, and together in a batch.
SHARPNESS_ROWS, SHARPNESS_BATCH = 512, 128


class Report(Protocol):
    """Receives an epoch's metrics, and how to take the state that continues from there."""

    def __call__(self, metrics: dict[str, float], state: Callable[[], dict[str, Any]], /) -> None:
        """Called once an epoch on every worker, with metrics reduced over workers."""


class DivergedError(RuntimeError):
    """The training loss, or a weight, is no longer finite."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """This process' place among the workers of a trial.

    Args:
        rank: from 0.
        workers: count.
        device: of this worker.
        group: process group of these workers; None for all processes there are.
    """

    rank: int = 0
    workers: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - devices are immutable
    group: dist.ProcessGroup | None = None

    def sum(self, values: Tensor) -> Tensor:
        """``values`` added up over the workers, element by element."""
        if self.workers > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def mean(self, values: list[float]) -> list[float]:
        """Each value's mean over the workers, for what every worker measures on its own clock."""
        taken = torch.tensor(values, dtype=torch.float64, device=self.device)
        return [float(value) for value in self.sum(taken) / self.workers]

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model as it is trained: in DistributedDataParallel where there are more workers."""
        if self.workers == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        # Buffers are averaged once an epoch instead: a broadcast would let the first worker's
        # BatchNorm statistics overwrite the others'.
        return DistributedDataParallel(
            model, device_ids=devices, broadcast_buffers=False, process_group=self.group
        )

    def average_buffers(self, model: nn.Module) -> None:
        """Replace floating-point buffers (BatchNorm's statistics) by their mean over workers."""
        if self.workers > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer, group=self.group)
                    buffer /= self.workers


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


def measure_sharpness(model: nn.Module, split: Split, worker: Worker, smoothing: float) -> float:
    """How sharp the training loss is around the model's weights: see ``metrics.SHARPNESS``.

    The rows are the same for every trial and seed of a task: evenly spaced in the training split,
    as they are trained on but without augmentation, in batches that do not depend on the count of
    workers, which share them out. Computed in float32 whatever the training's precision, whose
    rounding is as large as what is measured.

    Args:
        model: its weights, statistics and gradients stay as they are, as do all random streams.
        split: the training split, on the worker's device.
        worker: of several.
        smoothing: of the labels, as trained with.
    """
    count = min(len(split), SHARPNESS_ROWS)
    rows = torch.arange(count) * len(split) // count
    own = rows.split(SHARPNESS_BATCH)[worker.rank :: worker.workers]
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=worker.device)
    # What a split gives at a time holds whole batches; only the last of all may be smaller.
    for images, labels in split.in_order(torch.cat(own)) if own else ():
        for some, their in zip(
            images.split(SHARPNESS_BATCH), labels.split(SHARPNESS_BATCH), strict=True
        ):

            def loss(some: Tensor = some, their: Tensor = their) -> Tensor:
                return F.cross_entropy(model(some), their, label_smoothing=smoothing)

            rise = gradient_sharpness(list(model.parameters()), loss, keys.SHARPNESS_RADIUS)
            total += rise * len(their)
    model.train()
    return float(worker.sum(total)) / count


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

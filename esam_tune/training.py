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
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler

from esam_tune import metrics as keys
from esam_tune.computation import Computation
from esam_tune.config import OPTIMIZERS, TrainingSettings, TrialSettings
from esam_tune.domains import Value
from esam_tune.optim import (
    ESAM,
    MSAM,
    BaseStep,
    LookSAM,
    PerSampleOptimizer,
    step_flops_ratio,
)
from esam_tune.step_timer import StepTimer
from esam_tune.tasks.batches import Batches
from esam_tune.tasks.data import check_batch_size, load_split, step_example, training_batches
from esam_tune.tasks.models import build_model
from esam_tune.tasks.splits import Split


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


def build_base(training: TrainingSettings, model: nn.Module) -> torch.optim.SGD:
    """The base optimizer: SGD with momentum, as in the paper."""
    return torch.optim.SGD(
        model.parameters(),
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )


def build_optimizer(
    params: Mapping[str, Value],
    training: TrainingSettings,
    model: nn.Module,
    seed: int,
    scaler: GradScaler | None = None,
) -> PerSampleOptimizer:
    """The optimizer that a trial's parameters describe.

    SAM is ESAM at beta = gamma = 1, ASAM its adaptive form.
    """
    base = build_base(training, model)
    name = params["optimizer"]
    own: dict[str, Any] = {key: params[key] for key in OPTIMIZERS[str(name)].defaults}
    own |= {"model": model, "scaler": scaler}
    if name == "sgd":
        return BaseStep(base, **own)
    if name == "msam":
        return MSAM(base, **own)
    if name == "looksam":
        return LookSAM(base, **own)
    if name in ("sam", "asam"):
        own |= {"beta": 1.0, "gamma": 1.0, "adaptive": name == "asam"}
    return ESAM(base, seed=seed, **own)


def build_schedule(
    training: TrainingSettings, base: torch.optim.Optimizer
) -> lr_scheduler.LRScheduler:
    """The learning rate of each epoch: a cosine to 0, after a linear warm-up if there is one.

    Of W warm-up epochs number e, counted from 1, has the share e / (W + 1) of the learning rate.
    """
    warm_up = training.warmup_epochs
    cosine = lr_scheduler.CosineAnnealingLR(base, training.epochs - warm_up)
    if warm_up == 0:
        return cosine
    linear = lr_scheduler.LinearLR(base, 1 / (warm_up + 1), total_iters=warm_up)
    return lr_scheduler.SequentialLR(base, [linear, cosine], [warm_up])


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


def count_flops_ratio(settings: TrialSettings, workers: int) -> float:
    """Counted FLOPs of a step of this trial's optimizer over the base optimizer's."""
    rows = settings.training.batch_size // workers
    model, images, labels = step_example(settings.task, rows)
    params = dict(settings.params)
    if settings.training.compile and "beta" in params:
        # A compiled model is not compiled anew for each set of frozen weights, so SWP saves none
        # of the clean pass.
        params["beta"] = 1.0

    def build(copy: nn.Module) -> PerSampleOptimizer:
        return build_optimizer(params, settings.training, copy, settings.seed)

    return step_flops_ratio(build, model, images, labels)


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

    torch.manual_seed(settings.seed + worker.rank)
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
        torch.set_rng_state(resume["rng"])
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
                "rng": torch.get_rng_state(),
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

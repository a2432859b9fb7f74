"""What a setting's parameters make of the optimizer: its steps, their schedule, their cost."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import lr_scheduler

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
from esam_tune.tasks.data import step_example


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

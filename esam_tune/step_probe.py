"""How long a plain step of a task takes on this machine, measured by a few steps."""

import time

import torch

from esam_tune.computation import Computation
from esam_tune.config import TaskSettings, TrainingSettings
from esam_tune.optim import BaseStep
from esam_tune.tasks.models import build_model
from esam_tune.tasks.splits import Split
from esam_tune.training import build_base

_WARM_UP_STEPS = 2
_FEWEST_STEPS, _MOST_STEPS = 3, 30


def probe_base_step(
    task: TaskSettings,
    training: TrainingSettings,
    train: Split,
    rows: int,
    device: torch.device,
    *,
    seconds: float = 5.0,
) -> list[float]:
    """Time steps of the base optimizer, in the training's precision, layout and loss.

    Args:
        task: gives the network.
        training: how it is computed.
        train: the training split, whose first rows serve.
        rows: of one worker's batch.
        device: to run on.
        seconds: to spend, about; a few steps are timed however long they take.

    Returns:
        Seconds of each step, the first ones, which warm up, left out.
    """
    computation = Computation(training, device)
    images, labels = (tensor.to(device) for tensor in train.first(rows))
    model = build_model(task.model, train.image_shape, train.num_classes, 0).to(device)
    replica = computation.compiled(computation.laid_out(model))
    optimizer = BaseStep(build_base(training, model), model=replica, scaler=computation.scaler())

    def losses(_: torch.Tensor | None) -> torch.Tensor:
        return computation.losses(replica, images, labels)

    timed: list[float] = []
    end = time.perf_counter() + seconds
    while len(timed) < _WARM_UP_STEPS + _FEWEST_STEPS or (
        time.perf_counter() < end and len(timed) < _WARM_UP_STEPS + _MOST_STEPS
    ):
        start = time.perf_counter()
        optimizer.step(losses)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        timed.append(time.perf_counter() - start)
    return timed[_WARM_UP_STEPS:]

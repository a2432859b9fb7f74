"""How long steps of a task take on this machine, measured by a few of them."""

import time

import torch

from esam_tune.computation import Computation
from esam_tune.config import TaskSettings, TrainingSettings, complete_params
from esam_tune.optimization import build_optimizer
from esam_tune.tasks.models import build_model
from esam_tune.tasks.splits import Split

# The step whose price above a base step is compared with its measured time.
SAM = complete_params("params", {"optimizer": "sam"})
_BASE = complete_params("params", {"optimizer": "sgd"})
_WARM_UP_STEPS = 2
_FEWEST_STEPS, _MOST_STEPS = 3, 30


def probe_steps(
    task: TaskSettings,
    training: TrainingSettings,
    train: Split,
    rows: int,
    device: torch.device,
    *,
    seconds: float = 6.0,
) -> tuple[list[float], list[float]]:
    """Time steps of the base optimizer and of SAM, in the training's precision, layout and loss.

    They take turns, so that whatever else the machine does slows both.

    Args:
        task: gives the network.
        training: how it is computed.
        train: the training split, whose first rows serve.
        rows: of one worker's batch.
        device: to run on.
        seconds: to spend, about; a few steps are timed however long they take.

    Returns:
        Seconds of each base step, and of each SAM step; the first ones, which warm up, left out.
    """
    computation = Computation(training, device)
    images, labels = (tensor.to(device) for tensor in train.first(rows))
    model = build_model(task.model, train.image_shape, train.num_classes, 0).to(device)
    replica = computation.compiled(computation.laid_out(model))
    optimizers = [
        build_optimizer(params, training, replica, 0, computation.scaler())
        for params in (_BASE, SAM)
    ]

    def losses(selected: torch.Tensor | None) -> torch.Tensor:
        assert selected is None, "neither optimizer selects"
        return computation.losses(replica, images, labels)

    timed: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(timed[0]) < _WARM_UP_STEPS + _FEWEST_STEPS or (
        time.perf_counter() < end and len(timed[0]) < _WARM_UP_STEPS + _MOST_STEPS
    ):
        for optimizer, taken in zip(optimizers, timed, strict=True):
            start = time.perf_counter()
            optimizer.step(losses)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - start)
    return timed[0][_WARM_UP_STEPS:], timed[1][_WARM_UP_STEPS:]

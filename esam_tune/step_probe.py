"""How long steps of a task take on this machine, measured by a few of them.

As a program it measures in step with others of its kind, as trials run side by side.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict

import torch
from torch import Tensor

from esam_tune.computation import Computation
from esam_tune.config import (
    TaskSettings,
    TrainingSettings,
    complete_params,
    task_settings,
    training_settings,
)
from esam_tune.errors import RunFailedError, one_line
from esam_tune.optimization import build_optimizer
from esam_tune.tasks.data import load_split, training_batches
from esam_tune.tasks.models import build_model
from esam_tune.tasks.splits import Split

# The step whose price above a base step is compared with its measured time.
SAM = complete_params("params", {"optimizer": "sam"})
_BASE = complete_params("params", {"optimizer": "sgd"})
_WARM_UP_STEPS = 2
_FEWEST_STEPS = 3
_SECONDS = 5.0

Times = tuple[list[float], list[float]]


def probe_steps(
    task: TaskSettings,
    training: TrainingSettings,
    train: Split,
    rows: int,
    device: torch.device,
    *,
    beside: int = 1,
    seconds: float = _SECONDS,
) -> Times:
    """Time steps of the base optimizer and of SAM, in the training's precision, layout and loss.

    They take turns, so that whatever else the machine does slows both. A step's time holds that
    of getting its batch, but for images that are decoded beside the training.

    Args:
        task: gives the network.
        training: how it is computed.
        train: the training split.
        rows: of one worker's batch.
        device: to run on.
        beside: processes that do so at the same time, each on as many threads as this one: they
            share caches, memory and what else a core has but once. Of a CPU alone.
        seconds: to spend, about; a few steps are timed however long they take.

    Returns:
        Seconds of each base step, and of each SAM step, of all processes; the first ones, which
        warm up, left out.

    Raises:
        RunFailedError: when one of several processes fails.
    """
    if beside == 1:
        return _Probe(task, training, train, rows, device).timed(seconds)
    asked = {
        "task": asdict(task),
        "training": asdict(training),
        "rows": rows,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
    }
    with ExitStack() as stack:
        others = [stack.enter_context(_process()) for _ in range(beside)]
        try:
            for text in (json.dumps(asked), "go"):
                for other in others:
                    _tell(other, text)
                told = [_said(other) for other in others]
        finally:
            for other in others:
                other.kill()
    base, sam = zip(*map(json.loads, told), strict=True)
    return [time for times in base for time in times], [time for times in sam for time in times]


class _Probe:
    """Two optimizers with one network, warmed up."""

    def __init__(
        self,
        task: TaskSettings,
        training: TrainingSettings,
        train: Split,
        rows: int,
        device: torch.device,
    ) -> None:
        self._computation = Computation(training, device)
        self._device = device
        train = train.to(device)
        self._batches = _batches(task, training, train, rows)
        model = build_model(task.model, train.image_shape, train.num_classes, 0).to(device)
        self._replica = self._computation.compiled(self._computation.laid_out(model))
        self._optimizers = [
            build_optimizer(params, training, self._replica, 0, self._computation.scaler())
            for params in (_BASE, SAM)
        ]
        for _ in range(_WARM_UP_STEPS):
            self._steps()

    def timed(self, seconds: float) -> Times:
        """Seconds of each base step and of each SAM step."""
        taken: Times = ([], [])
        end = time.perf_counter() + seconds
        while len(taken[0]) < _FEWEST_STEPS or time.perf_counter() < end:
            for times, each in zip(taken, self._steps(), strict=True):
                times.append(each)
        return taken

    def _steps(self) -> list[float]:
        taken = []
        for optimizer in self._optimizers:
            start = time.perf_counter()
            images, labels = next(self._batches)

            def losses(
                selected: Tensor | None, images: Tensor = images, labels: Tensor = labels
            ) -> Tensor:
                assert selected is None, "neither optimizer selects"
                return self._computation.losses(self._replica, images, labels)

            optimizer.step(losses)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            taken.append(time.perf_counter() - start)
        return taken


def _batches(
    task: TaskSettings, training: TrainingSettings, train: Split, rows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    if train.cropped_by_loader:
        images, labels = (tensor.to(train.labels.device) for tensor in train.first(rows))
        while True:
            yield images, labels
    workers = training.batch_size // rows
    batches = training_batches(task, train, training.batch_size, 0, workers=workers)
    while True:
        yield from batches.epoch()


def _process() -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", __name__]
    return subprocess.Popen(  # noqa: S603 - this very interpreter
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def _tell(other: subprocess.Popen[str], text: str) -> None:
    assert other.stdin is not None
    # Why one has ended is on what it said.
    with suppress(BrokenPipeError):
        other.stdin.write(text + "\n")
        other.stdin.flush()


def _said(other: subprocess.Popen[str]) -> str:
    assert other.stdout is not None
    if line := other.stdout.readline():
        return line
    assert other.stderr is not None
    reason = one_line(other.stderr.read().strip().rpartition("\n")[2])
    raise RunFailedError(f"a step could not be timed ({reason or 'its process was killed'})")


def _main() -> None:
    """Measure what stdin asks, at its second line; to stdout."""
    asked = json.loads(sys.stdin.readline())
    torch.set_num_threads(asked["threads"])
    task, training = task_settings(asked["task"]), training_settings(asked["training"])
    train = load_split(task, "train")
    probe = _Probe(task, training, train, asked["rows"], torch.device("cpu"))
    print("ready", flush=True)  # noqa: T201 - to whom has asked
    sys.stdin.readline()
    print(json.dumps(probe.timed(asked["seconds"])), flush=True)  # noqa: T201


if __name__ == "__main__":
    _main()

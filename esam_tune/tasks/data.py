"""Splits of a data set as tensors, label noise, and the order in which batches are drawn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from esam_tune.config import TaskSettings
from esam_tune.errors import InputError
from esam_tune.tasks.digits import load_digits

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Samples of one split.

    Args:
        images: shape (n, channels, height, width), float32.
        labels: shape (n,), int64, in 0 .. num_classes - 1.
        num_classes: of the data set.
    """

    images: Tensor
    labels: Tensor
    num_classes: int

    def __len__(self) -> int:
        """Count of samples."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """The same split on ``device``."""
        return Split(
            images=self.images.to(device),
            labels=self.labels.to(device),
            num_classes=self.num_classes,
        )


_LOADERS: dict[str, Callable[[SplitName, int], tuple[Tensor, Tensor, int]]] = {
    "digits": load_digits,
}


@lru_cache(maxsize=8)
def load_split(task: TaskSettings, name: SplitName) -> Split:
    """One split of the task's data; the train split carries the label noise.

    The test split is loaded only when asked for by name, which a search never does.
    """
    images, labels, num_classes = _LOADERS[task.dataset](name, task.split_seed)
    if name == "train" and task.label_noise:
        labels = symmetric_noise(labels, num_classes, task.label_noise, task.split_seed)
    return Split(images=images, labels=labels, num_classes=num_classes)


def symmetric_noise(labels: Tensor, num_classes: int, share: float, seed: int) -> Tensor:
    """Replace the share of the labels, rounded to whole samples, by another class each.

    The wrong class is uniform over the other ``num_classes - 1``.

    Args:
        labels: shape (n,), int64; left as it is.
        num_classes: at least 2.
        share: in [0, 1).
        seed: fixes which labels change and to what.
    """
    generator = torch.Generator().manual_seed(seed)
    count = round(share * len(labels))
    rows = torch.randperm(len(labels), generator=generator)[:count]
    shift = torch.randint(1, num_classes, (count,), generator=generator)
    noisy = labels.clone()
    noisy[rows] = (labels[rows] + shift) % num_classes
    return noisy


def check_batch_size(
    batch_size: int, workers: int, train: Split, field: str = "training.batch_size"
) -> None:
    """Require that the batch fits the data and divides evenly over the workers.

    Raises:
        InputError: naming the field.
    """
    if batch_size > len(train):
        raise InputError(
            field,
            f"must be at most the {len(train)} training samples, got {batch_size}",
            "use a smaller batch",
        )
    if batch_size % workers:
        raise InputError(
            "training.batch_size",
            f"must divide evenly over the {workers} workers of a trial, got {batch_size}",
            f"use a multiple of {workers}",
        )


class BatchOrder:
    """The rows of each step: a new permutation an epoch, the same on every worker.

    A step takes ``batch_size`` rows over all workers, each worker an equal share of them, so
    the samples of a step do not depend on the count of workers. The rest of an epoch that fills
    no whole batch is left out (another part each time).

    Args:
        num_samples: n, of the training split.
        batch_size: rows of a step over all workers, at most n.
        seed: fixes the order.
        rank: of this worker.
        workers: count, a divisor of ``batch_size``.
    """

    def __init__(
        self, num_samples: int, batch_size: int, seed: int, *, rank: int = 0, workers: int = 1
    ) -> None:
        self._num_samples = num_samples
        self._batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._rank = rank
        self._workers = workers

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self._num_samples // self._batch_size

    def epoch(self) -> Iterator[Tensor]:
        """Yield the row indices of each step, shape (batch_size / workers,)."""
        order = torch.randperm(self._num_samples, generator=self._generator)
        for step in range(self.steps):
            rows = order[step * self._batch_size : (step + 1) * self._batch_size]
            yield rows[self._rank :: self._workers]

    def state_dict(self) -> dict[str, Tensor]:
        """State between epochs."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state between epochs."""
        self._generator.set_state(state["generator"])

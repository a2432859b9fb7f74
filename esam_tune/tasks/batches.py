"""The batches a worker trains on: their order, their rows and their augmentation."""

from collections.abc import Iterator

import torch
from torch import Tensor

from esam_tune.tasks.augmentation import DRAWS, Augmentation
from esam_tune.tasks.seeds import seeded
from esam_tune.tasks.splits import Split, Step


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
        self._generator = seeded(seed, "order")
        self._share = slice(rank, None, workers)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self._num_samples // self._batch_size

    @property
    def batch_size(self) -> int:
        """Rows of a step over all workers."""
        return self._batch_size

    @property
    def share(self) -> slice:
        """Which rows of a step are this worker's."""
        return self._share

    def epoch(self) -> Iterator[Tensor]:
        """Yield the row indices of each step, shape (batch_size / workers,)."""
        order = torch.randperm(self._num_samples, generator=self._generator)
        for step in range(self.steps):
            rows = order[step * self._batch_size : (step + 1) * self._batch_size]
            yield rows[self._share]

    def state_dict(self) -> dict[str, Tensor]:
        """State between epochs."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state between epochs."""
        self._generator.set_state(state["generator"])


class Batches:
    """A worker's share of each training batch, augmented and standardised, on the split's device.

    Every worker makes the draws of the whole batch and takes its own rows' part, so the images of
    a step do not depend on the count of workers. A batch's tensors hold what all passes of a step
    see.

    Args:
        split: the training split.
        order: of its rows.
        augmentation: or None.
        seed: fixes the draws.
    """

    def __init__(
        self, split: Split, order: BatchOrder, augmentation: Augmentation | None, seed: int
    ) -> None:
        self._split = split
        self._order = order
        self._augmentation = augmentation
        self._generator = seeded(seed, "augmentation")

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self._order.steps

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, shape (batch_size / workers, c, h, w), float32, and labels of each step."""
        augmentation = self._augmentation
        for images, labels, draws in self._split.fetch(self._drawn()):
            if augmentation is None or draws is None:
                yield self._split.standardised(images), labels
                continue
            moved = augmentation.move(images, draws)
            yield augmentation.cut(self._split.standardised(moved), draws), labels

    def _drawn(self) -> Iterator[Step]:
        for rows in self._order.epoch():
            draws = None
            if self._augmentation is not None:
                shape = (self._order.batch_size, DRAWS)
                drawn = torch.rand(shape, generator=self._generator, dtype=torch.float64)
                draws = drawn[self._order.share]
            yield Step(rows, draws)

    def state_dict(self) -> dict[str, Tensor]:
        """State between epochs; the same on every worker."""
        return {**self._order.state_dict(), "augmentation": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state between epochs."""
        self._order.load_state_dict(state)
        # Checkpoints older than augmentation do not have it.
        if "augmentation" in state:
            self._generator.set_state(state["augmentation"])

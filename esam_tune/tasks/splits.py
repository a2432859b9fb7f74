"""Splits of a data set: what every kind of them offers, and the kind that is an array."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

SplitName = Literal["train", "val", "test"]

_EVALUATION_ROWS = 1024


class Step(NamedTuple):
    """One worker's part of a step.

    Args:
        rows: indices into the split, shape (b,), int64 on the CPU.
        draws: uniform numbers in [0, 1) for each row's augmentation, shape (b, DRAWS), float64 on
            the CPU; None where nothing is augmented.
    """

    rows: Tensor
    draws: Tensor | None


class Loaded(NamedTuple):
    """A step's samples as they are stored, on the split's device.

    Args:
        images: shape (b, channels, height, width), uint8 or float32; the caller's to change.
        labels: shape (b,), int64.
        draws: of the step, on the same device.
    """

    images: Tensor
    labels: Tensor
    draws: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Split(ABC):
    """Samples of one split.

    Args:
        labels: shape (n,), int64, in 0 .. num_classes - 1.
        num_classes: of the data set.
        image_shape: channels, height and width of an image as a network gets it.
        mean: of the training split by channel, on the images' own scale; None where the images
            are standardised already.
        deviation: of the training split by channel, or None.
    """

    labels: Tensor
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def __len__(self) -> int:
        """Count of samples."""
        return len(self.labels)

    @property
    @abstractmethod
    def cropped_by_loader(self) -> bool:
        """Whether images come out of :meth:`fetch` randomly cropped already."""

    @abstractmethod
    def to(self, device: torch.device) -> "Split":
        """The same split, whose samples come out on ``device``."""

    @abstractmethod
    def fetch(self, steps: Iterable[Step]) -> Iterator[Loaded]:
        """Yield the samples of each step, in the order of the steps."""

    @abstractmethod
    def in_order(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels of these rows for evaluation: a few large batches, none empty."""

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """The first images, as a network gets them in evaluation, and their labels."""
        images, labels = zip(*self.in_order(torch.arange(min(count, len(self)))), strict=True)
        return torch.cat(images), torch.cat(labels)

    def share(self, rank: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One worker's share of the split for evaluation, possibly none; see :meth:`in_order`."""
        return self.in_order(torch.arange(len(self))[rank::workers])

    def with_labels(self, labels: Tensor) -> "Split":
        """The same images under other labels."""
        return replace(self, labels=labels)

    def standardised(self, images: Tensor) -> Tensor:
        """Images as float32 with the training split's mean taken off, over its deviation."""
        if self.mean is None or self.deviation is None:
            return images.float()
        scale, offset = _affine(self.mean, self.deviation, images.device)
        return images.float().mul_(scale).add_(offset)


def chunks(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Rows in parts of at most ``size``, none of them empty."""
    return rows.split(size) if len(rows) else ()


@lru_cache(maxsize=8)
def _affine(
    mean: tuple[float, ...], deviation: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and summand that standardise a batch; kept, so that a step copies nothing for it."""
    scale = 1.0 / torch.tensor(deviation, dtype=torch.float64)
    offset = -torch.tensor(mean, dtype=torch.float64) * scale
    both = torch.stack([scale, offset]).float().to(device)
    return both[0].view(1, -1, 1, 1), both[1].view(1, -1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class ArraySplit(Split):
    """A split that is some rows of an array, which several splits may have in common.

    Args:
        pixels: shape (m, channels, height, width), uint8 or float32. On the CPU it may be a
            memory-mapped file, and is never copied as a whole nor written to.
        rows: of ``pixels`` that belong to the split, shape (n,), int64.
    """

    pixels: Tensor
    rows: Tensor

    @property
    def cropped_by_loader(self) -> bool:
        """Arrays are cropped in batches, after they are fetched."""
        return False

    def to(self, device: torch.device) -> "ArraySplit":
        """The same split on ``device``; on another one than now it keeps its own rows alone."""
        if device == self.pixels.device:
            return self
        return replace(
            self,
            pixels=self.pixels[self.rows].to(device),
            rows=torch.arange(len(self.rows), device=device),
            labels=self.labels.to(device),
        )

    def fetch(self, steps: Iterable[Step]) -> Iterator[Loaded]:
        """Yield the samples of each step."""
        device = self.pixels.device
        for step in steps:
            rows = step.rows.to(device)
            draws = None if step.draws is None else step.draws.to(device)
            yield Loaded(self.pixels[self.rows[rows]], self.labels[rows], draws)

    def in_order(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels of these rows for evaluation."""
        for chunk in chunks(rows.to(self.pixels.device), _EVALUATION_ROWS):
            yield self.standardised(self.pixels[self.rows[chunk]]), self.labels[chunk]

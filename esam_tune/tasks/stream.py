"""Splits too large for memory: images that worker processes decode while the model trains."""

import math
import os
import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from esam_tune.tasks.augmentation import CROP_DRAW
from esam_tune.tasks.splits import Loaded, Split, Step, chunks

_EVALUATION_ROWS = 256
_PREFETCH = 4
# Area and shape of a random crop, and how often one is drawn before the middle is taken instead
# (Szegedy et al. 2015, arXiv 1409.4842, as torchvision's RandomResizedCrop does it).
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10
# In evaluation the shorter side becomes 256 pixels for every 224 that the middle is cropped to.
_MARGIN = 256 / 224

Box = tuple[float, float, float, float]
# An image's index, and the draw of its random crop, or None for its middle.
_Wanted = tuple[int, float | None]


class ImageError(RuntimeError):
    """An image that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Paths of many images, without a Python object for each.

    Args:
        folder: they lie in.
        names: all their paths in it, one behind the other, shape (bytes,), uint8.
        ends: where each one's path ends in ``names``, shape (n,).
    """

    folder: str
    names: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def path(self, index: int) -> str:
        """Path of one image."""
        start = self.ends[index - 1] if index else 0
        return f"{self.folder}/{os.fsdecode(self.names[start : self.ends[index]].tobytes())}"


@dataclass(frozen=True, kw_only=True)
class StreamSplit(Split):
    """A split whose images are decoded anew each time.

    There are as many decoding processes as torch has threads here, which is how many cores the
    worker was given. What they give does not depend on their count.

    Args:
        files: of several splits.
        rows: of ``files`` that belong to the split, shape (n,), int64.
        random_crop: whether training takes a random crop of each image, not its middle.
        device: where batches are put.
    """

    files: ImageFiles
    rows: Tensor
    random_crop: bool
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - devices are immutable

    @property
    def cropped_by_loader(self) -> bool:
        """A crop is taken while decoding."""
        return True

    def to(self, device: torch.device) -> "StreamSplit":
        """The same split, whose batches are put on ``device``."""
        return replace(self, device=device)

    def fetch(self, steps: Iterable[Step]) -> Iterator[Loaded]:
        """Yield the samples of each step, decoded ahead of time."""
        # Steps are taken as far ahead as images are decoded; their draws wait here.
        waiting: deque[Step] = deque()

        def wanted() -> Iterator[list[_Wanted]]:
            for step in steps:
                waiting.append(step)
                crops: list[float] | list[None] = [None] * len(step.rows)
                if self.random_crop and step.draws is not None:
                    crops = step.draws[:, CROP_DRAW].tolist()
                yield list(zip(self.rows[step.rows].tolist(), crops, strict=True))

        for images in self._decoded(wanted()):
            step = waiting.popleft()
            draws = None if step.draws is None else self._put(step.draws)
            yield Loaded(self._put(images), self._put(self.labels[step.rows]), draws)

    def in_order(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels of these rows for evaluation."""
        parts = chunks(rows, _EVALUATION_ROWS)

        def wanted() -> Iterator[list[_Wanted]]:
            for chunk in parts:
                yield [(row, None) for row in self.rows[chunk].tolist()]

        for chunk, images in zip(parts, self._decoded(wanted()), strict=True):
            yield self.standardised(self._put(images)), self._put(self.labels[chunk])

    def _put(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)

    def _decoded(self, wanted: Iterator[list[_Wanted]]) -> Iterator[Tensor]:
        loader: DataLoader[Tensor] = DataLoader(
            _Decoder(self.files, self.image_shape[1]),
            batch_sampler=wanted,
            num_workers=torch.get_num_threads(),
            prefetch_factor=_PREFETCH,
            pin_memory=self.device.type == "cuda",
            # The loader draws a seed for its workers, which nothing here uses: not from the
            # generator that the training's own draws come from.
            generator=torch.Generator(),
        )
        yield from loader


class _Decoder(Dataset[Tensor]):
    """Decodes one image, shape (3, size, size), uint8.

    Args:
        files: to choose from.
        size: side of the result.
    """

    def __init__(self, files: ImageFiles, size: int) -> None:
        self._files = files
        self._size = size

    def __getitem__(self, wanted: _Wanted) -> Tensor:
        """One image; the second of ``wanted`` draws its random crop, None takes the middle."""
        row, draw = wanted
        return decode(self._files.path(row), self._size, draw)


def decode(path: str, size: int, draw: float | None) -> Tensor:
    """Read an image and bring it to a size.

    Args:
        path: of the image.
        size: side of the result in pixels.
        draw: in [0, 1), fixes a random crop; None takes the middle, as in evaluation.

    Returns:
        Shape (3, size, size), uint8.

    Raises:
        ImageError: when it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if draw is None:
                box = _middle(*image.size, size)
            else:
                box = _random_box(*image.size, random.Random(draw))
                box = _reduced(image, box, size)
            resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"the image {path!r} cannot be read: {error}") from None
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def _middle(width: int, height: int, size: int) -> Box:
    """The square that a resize of the shorter side and a crop of the middle would leave."""
    side = min(width, height) * size / round(size * _MARGIN)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random_box(width: int, height: int, draws: random.Random) -> Box:
    """A box of random area and shape that lies in the image."""
    for _ in range(_ATTEMPTS):
        area = width * height * draws.uniform(*_AREA)
        ratio = math.exp(draws.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = draws.randint(0, width - wide), draws.randint(0, height - high)
            return left, top, left + wide, top + high
    # The largest box of a permitted shape, in the middle.
    wide = min(width, round(height * _RATIO[1]))
    high = min(height, round(width / _RATIO[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _reduced(image: Any, box: Box, size: int) -> Box:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8 where the box stays larger than the result."""
    width, height = image.size
    shrink = min((box[2] - box[0]) / size, (box[3] - box[1]) / size)
    if shrink < 2.0:
        return box
    image.draft("RGB", (math.ceil(width / shrink), math.ceil(height / shrink)))
    across, down = image.size[0] / width, image.size[1] / height
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down

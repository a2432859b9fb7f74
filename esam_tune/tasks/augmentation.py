"""Random crop, horizontal flip and Cutout, for a whole batch at once on its device.

Each sample has its own draws, made beforehand (:data:`DRAWS` numbers a row), so that what happens
to it depends on them alone: not on the device, nor on which worker has the row.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Uniform numbers a row takes: the crop's place (2), whether it is flipped, whether a square is cut
# out of it, and the square's place (2).
DRAWS = 6
CROP_DRAW = 0
"""The number that fixes the crop of an image that is cropped while it is decoded."""
_CROP_TOP, _CROP_LEFT, _FLIP, _CUT, _CUT_TOP, _CUT_LEFT = range(DRAWS)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to training images.

    With ``padding=4, flip=True, cutout=16`` on 32x32 images it is what ESAM's authors ran.

    Args:
        padding: of zeros on each side, out of which a window of the image's size is cropped
            uniformly; 0 for none.
        flip: whether every other image, on average, is mirrored left to right.
        cutout: side of the square that is set to zero in every other image, on average; 0 for
            none. Its top left corner is uniform over -cutout/2 .. size - cutout/2 - 1, so a part
            of it may lie outside.
    """

    padding: int
    flip: bool
    cutout: int

    @classmethod
    def named(
        cls, name: str, image_shape: tuple[int, int, int], *, cropped: bool
    ) -> "Augmentation | None":
        """The augmentation of a name in :data:`esam_tune.config.AUGMENTATIONS`.

        Args:
            name: of it.
            image_shape: of the images.
            cropped: whether the images come randomly cropped already.

        Returns:
            None when nothing is to be done to the images here or where they are cropped.
        """
        if name == "none":
            return None
        side = min(image_shape[1:])
        parts = name.split("_")
        return cls(
            padding=0 if cropped or "crop" not in parts else side // 8,
            flip="flip" in parts,
            cutout=side // 2 if "cutout" in parts else 0,
        )

    def move(self, images: Tensor, draws: Tensor) -> Tensor:
        """Crop and mirror.

        Args:
            images: shape (b, channels, height, width), of any dtype; left as it is.
            draws: shape (b, DRAWS).
        """
        if not (self.padding or self.flip):
            return images
        height, width = images.shape[2:]
        places = 2 * self.padding + 1
        top = _place(draws[:, _CROP_TOP], places)
        left = _place(draws[:, _CROP_LEFT], places)
        across = torch.arange(width, device=images.device).repeat(len(images), 1)
        if self.flip:
            across = torch.where(draws[:, _FLIP, None] < 0.5, across.flip(1), across)
        down = top[:, None] + torch.arange(height, device=images.device)
        across = left[:, None] + across
        padded = F.pad(images, [self.padding] * 4)
        # One gather over flat positions: the same for all channels of an image.
        positions = down[:, :, None] * padded.shape[3] + across[:, None, :]
        flat = positions.view(len(images), 1, -1).expand(-1, images.shape[1], -1)
        return padded.flatten(2).gather(2, flat).view(images.shape)

    def cut(self, images: Tensor, draws: Tensor) -> Tensor:
        """Set squares to zero, in place: after standardising, zero is the mean colour.

        Args:
            images: shape (b, channels, height, width), float.
            draws: shape (b, DRAWS).
        """
        if not self.cutout:
            return images
        chosen = draws[:, _CUT] < 0.5
        half = self.cutout // 2
        inside = [
            self._inside(_place(draws[:, which], size) - half, size)
            for which, size in ((_CUT_TOP, images.shape[2]), (_CUT_LEFT, images.shape[3]))
        ]
        square = (chosen[:, None] & inside[0])[:, :, None] & inside[1][:, None, :]
        return images.masked_fill_(square[:, None], 0.0)

    def _inside(self, start: Tensor, size: int) -> Tensor:
        """Which of ``size`` positions lie in the square, shape (b, size)."""
        distance = torch.arange(size, device=start.device) - start[:, None]
        return (distance >= 0) & (distance < self.cutout)


def _place(uniform: Tensor, count: int) -> Tensor:
    """One of 0 .. count - 1 for each uniform number in [0, 1)."""
    return (uniform * count).long()

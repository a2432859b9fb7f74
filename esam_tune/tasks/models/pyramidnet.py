"""Pyramidal residual networks.

Source: Han, Kim and Kim, "Deep Pyramidal Residual Networks", CVPR 2017, arXiv 1610.02915: the
additive network of basic blocks, with the block of figure 6d (BatchNorm first and last, no ReLU
before the first convolution) and zero-padded shortcuts.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from esam_tune.tasks.models.layers import PreActivated, conv


class PyramidBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm before, between and after them, beside a shortcut.

    The shortcut has no weights: averaged over 2x2 pixels where the block halves the image, with
    zeros for the channels that the block adds.

    Args:
        inputs: channels that come in.
        outputs: channels that go out, at least as many.
        stride: of the first convolution, 1 or 2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.norm3 = nn.BatchNorm2d(outputs)
        self._stride = stride
        self._added = outputs - inputs

    def forward(self, features: Tensor) -> Tensor:
        """Features of shape (n, outputs, h / stride, w / stride), rounded up."""
        residual = self.conv1(self.norm1(features))
        residual = self.conv2(F.relu(self.norm2(residual), inplace=True))
        kept = features
        if self._stride == 2:
            # Rounded up like the convolution's size, for images of an odd one.
            kept = F.avg_pool2d(kept, 2, ceil_mode=True)
        kept = F.pad(kept, (0, 0, 0, 0, 0, self._added))
        summed: Tensor = self.norm3(residual) + kept
        return summed


class PyramidNet(PreActivated):
    """PyramidNet for images of about 32x32 pixels: each block is alpha / N channels wider.

    Args:
        in_channels: of the images.
        num_classes: width of the logits.
        depth: count of layers with weights, of the form 6 n + 2; N = 3 n blocks.
        alpha: channels that the N blocks add to the stem's 16 in all, a multiple of N.
    """

    def __init__(self, in_channels: int, num_classes: int, *, depth: int, alpha: int) -> None:
        group = depth // 6
        added, rest = divmod(alpha, 3 * group)
        # Then nothing is rounded, where the paper's equation 3 and its authors' code differ.
        assert depth % 6 == 2
        assert rest == 0
        channels = 16
        stem = nn.Sequential(conv(in_channels, channels, 3), nn.BatchNorm2d(channels))
        blocks: list[nn.Module] = []
        for index in range(3 * group):
            stride = 2 if index > 0 and index % group == 0 else 1
            blocks.append(PyramidBlock(channels, channels + added, stride))
            channels += added
        super().__init__(stem, blocks, channels, num_classes)

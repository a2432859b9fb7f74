"""Wide residual networks.

Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146:
pre-activated basic blocks B(3,3) without dropout.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from esam_tune.tasks.models.layers import PreActivated, conv


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after BatchNorm and ReLU, beside a shortcut.

    Where the shape changes the shortcut is a 1x1 convolution of the activated input.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        reshapes = stride != 1 or inputs != outputs
        self.shortcut = conv(inputs, outputs, 1, stride) if reshapes else None

    def forward(self, features: Tensor) -> Tensor:
        """Features of shape (n, outputs, h / stride, w / stride), rounded up."""
        active = F.relu(self.norm1(features), inplace=True)
        kept = features if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active)), inplace=True))
        return kept + residual


class WideResNet(PreActivated):
    """WRN-depth-widen for images of about 32x32 pixels.

    Args:
        in_channels: of the images.
        num_classes: width of the logits.
        depth: count of convolutions in the longest path, of the form 6 n + 4.
        widen: factor k of the three groups' 16, 32 and 64 channels.
    """

    def __init__(self, in_channels: int, num_classes: int, *, depth: int, widen: int) -> None:
        assert depth % 6 == 4
        channels = 16
        stem = conv(in_channels, channels, 3)
        blocks: list[nn.Module] = []
        for group, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
            for index in range(depth // 6):
                stride = 2 if group > 0 and index == 0 else 1
                blocks.append(WideBlock(channels, width, stride))
                channels = width
        super().__init__(stem, blocks, channels, num_classes)

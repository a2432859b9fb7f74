"""What several networks are made of, with He et al.'s initial weights."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the image's size at stride 1, halved at 2.

    Initial weights are normal with variance 2 / (kernel^2 * outputs): He et al., "Delving Deep into
    Rectifiers", ICCV 2015, equation 14.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        kernel: side of the square kernel, odd.
        stride: of the kernel.
    """
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class Classifier(nn.Module):
    """Mean over the image, then the linear layer that gives the logits.

    Args:
        channels: of the last feature map.
        num_classes: width of the logits.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, num_classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of shape (n, num_classes) from features of shape (n, channels, h, w)."""
        logits: Tensor = self.linear(self.pool(features).flatten(1))
        return logits


class PreActivated(nn.Module):
    """A network of blocks that end before their activation, which the last BatchNorm and ReLU give.

    Args:
        stem: from the images to the first block.
        blocks: in their order.
        channels: of the last feature map.
        num_classes: width of the logits.
    """

    def __init__(
        self, stem: nn.Module, blocks: Iterable[nn.Module], channels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = Classifier(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (n, num_classes) from images of shape (n, channels, h, w)."""
        features = self.norm(self.blocks(self.stem(images)))
        logits: Tensor = self.classifier(F.relu(features, inplace=True))
        return logits

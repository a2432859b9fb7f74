"""A network for very small images that trains in seconds on one core."""

from torch import nn


class SmallCNN(nn.Sequential):
    """Three 3x3 convolutions (32, 64, 64 channels) with BatchNorm, for images of about 8x8 pixels.

    Args:
        in_channels: of the images.
        num_classes: width of the logits.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        layers: list[nn.Module] = []
        channels = in_channels
        for index, width in enumerate((32, 64, 64)):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            if index == 1:
                layers.append(nn.MaxPool2d(2))
            channels = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
        super().__init__(*layers)

"""Residual networks, torchvision's: with ImageNet's stem, and with the one for CIFAR's images.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385.
"""

from typing import Any

from torch import nn

from esam_tune.tasks.models.layers import conv


def resnet18_cifar(in_channels: int, num_classes: int) -> nn.Module:
    """ResNet-18 whose stem is one 3x3 convolution of stride 1, without pooling.

    Args:
        in_channels: of the images, which are about 32x32 pixels.
        num_classes: width of the logits.
    """
    from torchvision.models import resnet18

    model: Any = resnet18(num_classes=num_classes)
    model.conv1 = conv(in_channels, 64, 3)
    model.maxpool = nn.Identity()
    network: nn.Module = model
    return network


def resnet18(in_channels: int, num_classes: int) -> nn.Module:
    """ResNet-18 for images of about 224x224 pixels; of 32x32 it makes short work.

    Args:
        in_channels: of the images.
        num_classes: width of the logits.
    """
    from torchvision import models

    return _with_channels(models.resnet18(num_classes=num_classes), in_channels)


def resnet50(in_channels: int, num_classes: int) -> nn.Module:
    """ResNet-50 for images of about 224x224 pixels.

    Args:
        in_channels: of the images.
        num_classes: width of the logits.
    """
    from torchvision import models

    return _with_channels(models.resnet50(num_classes=num_classes), in_channels)


def resnet101(in_channels: int, num_classes: int) -> nn.Module:
    """ResNet-101 for images of about 224x224 pixels.

    Args:
        in_channels: of the images.
        num_classes: width of the logits.
    """
    from torchvision import models

    return _with_channels(models.resnet101(num_classes=num_classes), in_channels)


def _with_channels(model: Any, in_channels: int) -> nn.Module:
    if in_channels != 3:
        model.conv1 = conv(in_channels, 64, 7, 2)
    network: nn.Module = model
    return network

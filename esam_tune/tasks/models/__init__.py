"""Networks by name.

torchvision's own where it has them. It takes as long to import as torch, so only the functions
that build such a network import it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esam_tune.errors import InputError
from esam_tune.tasks.models.pyramidnet import PyramidNet
from esam_tune.tasks.models.resnet import resnet18_cifar, resnet50, resnet101
from esam_tune.tasks.models.small_cnn import SmallCNN
from esam_tune.tasks.models.vit import PATCH_SIZE, vit_s_16
from esam_tune.tasks.models.wide_resnet import WideResNet


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """The shape that all images of a data set have as the network receives them.

    Args:
        channels: count, 3 for colours.
        height: in pixels.
        width: in pixels.
    """

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, images: Tensor) -> "ImageShape":
        """The shape of each of these images, themselves of shape (n, channels, height, width)."""
        channels, height, width = images.shape[1:]
        return cls(channels=channels, height=height, width=width)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network on offer, and the images it takes.

    Args:
        build: makes it for images of a shape and a count of classes.
        smallest: least height and width; below it some layer would see padding only.
        patch: side of the square patches that it cuts the images into. Such a network takes
            square images alone, of a multiple of the patch. 1 for convolutional networks.
    """

    build: Callable[[ImageShape, int], nn.Module]
    smallest: int
    patch: int = 1


NETWORKS: Mapping[str, Network] = {
    "small_cnn": Network(build=lambda shape, n: SmallCNN(shape.channels, n), smallest=2),
    "resnet18_cifar": Network(build=lambda shape, n: resnet18_cifar(shape.channels, n), smallest=8),
    "wide_resnet28_10": Network(
        build=lambda shape, n: WideResNet(shape.channels, n, depth=28, widen=10), smallest=4
    ),
    "pyramidnet110_a270": Network(
        build=lambda shape, n: PyramidNet(shape.channels, n, depth=110, alpha=270), smallest=4
    ),
    "resnet50": Network(build=lambda shape, n: resnet50(shape.channels, n), smallest=32),
    "resnet101": Network(build=lambda shape, n: resnet101(shape.channels, n), smallest=32),
    "vit_s_16": Network(
        build=lambda shape, n: vit_s_16(shape.channels, n, shape.height),
        smallest=2 * PATCH_SIZE,
        patch=PATCH_SIZE,
    ),
}


def check_model(name: str, shape: ImageShape) -> None:
    """Require that a network takes images of a shape; nothing is built.

    Args:
        name: of the network, a key of `NETWORKS`.
        shape: of the images as the network receives them.

    Raises:
        InputError: naming ``task.model``, the bound and the size.
    """
    network = NETWORKS[name]
    size = f"{shape.height}x{shape.width}"
    if min(shape.height, shape.width) < network.smallest:
        fitting = [
            other
            for other, candidate in NETWORKS.items()
            if _takes(candidate, shape) and candidate is not network
        ]
        raise InputError(
            "task.model",
            f"{name} takes images of at least {network.smallest}x{network.smallest} pixels, "
            f"got a data set of {size}",
            f"use {' or '.join(fitting)}" if fitting else "use a data set of larger images",
        )
    if not _takes(network, shape):
        raise InputError(
            "task.model",
            f"{name} takes square images of a multiple of {network.patch} pixels, "
            f"got a data set of {size}",
            "use a convolutional network or another image size",
        )


def build_model(
    name: str, shape: ImageShape, num_classes: int, seed: int, *, device: str = "cpu"
) -> nn.Module:
    """Build a network with initial weights fixed by ``seed``; the global generator is left alone.

    Args:
        name: of the network, a key of `NETWORKS`.
        shape: of the images as the network receives them.
        num_classes: width of the logits.
        seed: of the initial weights.
        device: where it is built. On "meta" it has shapes and no values, which is enough to count.

    Raises:
        InputError: when it does not take images of this shape.
    """
    check_model(name, shape)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return NETWORKS[name].build(shape, num_classes)


def _takes(network: Network, shape: ImageShape) -> bool:
    if min(shape.height, shape.width) < network.smallest:
        return False
    if network.patch == 1:
        return True
    return shape.height == shape.width and shape.height % network.patch == 0

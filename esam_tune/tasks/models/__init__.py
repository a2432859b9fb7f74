"""Networks by name.

torchvision's own where it has them. It takes as long to import as torch, so only the functions
that build such a network import it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from esam_tune.errors import InputError
from esam_tune.tasks.models.pyramidnet import PyramidNet
from esam_tune.tasks.models.resnet import resnet18, resnet18_cifar, resnet50, resnet101
from esam_tune.tasks.models.small_cnn import SmallCNN
from esam_tune.tasks.models.vit import PATCH_SIZE, vit_s_16
from esam_tune.tasks.models.wide_resnet import WideResNet

Shape = tuple[int, int, int]
"""Channels, height and width of an image as the network receives it."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network on offer, and the images it takes.

    Args:
        build: makes it for images of a shape and a count of classes.
        smallest: least height and width; below it some layer would see padding only.
        patch: side of the square patches that it cuts the images into. Such a network takes
            square images alone, of a multiple of the patch. 1 for convolutional networks.
    """

    build: Callable[[Shape, int], nn.Module]
    smallest: int
    patch: int = 1


NETWORKS: Mapping[str, Network] = {
    "small_cnn": Network(build=lambda shape, n: SmallCNN(shape[0], n), smallest=2),
    "resnet18_cifar": Network(build=lambda shape, n: resnet18_cifar(shape[0], n), smallest=8),
    "resnet18": Network(build=lambda shape, n: resnet18(shape[0], n), smallest=32),
    "wide_resnet28_10": Network(
        build=lambda shape, n: WideResNet(shape[0], n, depth=28, widen=10), smallest=4
    ),
    "pyramidnet110_a270": Network(
        build=lambda shape, n: PyramidNet(shape[0], n, depth=110, alpha=270), smallest=4
    ),
    "resnet50": Network(build=lambda shape, n: resnet50(shape[0], n), smallest=32),
    "resnet101": Network(build=lambda shape, n: resnet101(shape[0], n), smallest=32),
    "vit_s_16": Network(
        build=lambda shape, n: vit_s_16(shape[0], n, shape[1]),
        smallest=2 * PATCH_SIZE,
        patch=PATCH_SIZE,
    ),
}


def check_model(name: str, image_shape: Shape) -> None:
    """Require that a network takes images of a shape; nothing is built.

    Args:
        name: of the network, a key of `NETWORKS`.
        image_shape: of the images as the network receives them.

    Raises:
        InputError: naming ``task.model``, the bound and the size.
    """
    network = NETWORKS[name]
    if _takes(network, image_shape):
        return
    _, height, width = image_shape
    size = f"{height}x{width}"
    if min(height, width) < network.smallest:
        fitting = [other for other in NETWORKS if _takes(NETWORKS[other], image_shape)]
        raise InputError(
            "task.model",
            f"{name} takes images of at least {network.smallest}x{network.smallest} pixels, "
            f"got a data set of {size}",
            f"use {' or '.join(fitting)}" if fitting else "use a data set of larger images",
        )
    raise InputError(
        "task.model",
        f"{name} takes square images of a multiple of {network.patch} pixels, "
        f"got a data set of {size}",
        "use a convolutional network or another image size",
    )


def build_model(
    name: str, image_shape: Shape, num_classes: int, seed: int, *, device: str = "cpu"
) -> nn.Module:
    """Build a network with initial weights fixed by ``seed``; the global generator is left alone.

    Args:
        name: of the network, a key of `NETWORKS`.
        image_shape: of the images as the network receives them.
        num_classes: width of the logits.
        seed: of the initial weights.
        device: where it is built. On "meta" it has shapes and no values, which is enough to count.

    Raises:
        InputError: when it does not take images of this shape.
    """
    check_model(name, image_shape)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return NETWORKS[name].build(image_shape, num_classes)


def _takes(network: Network, image_shape: Shape) -> bool:
    _, height, width = image_shape
    if min(height, width) < network.smallest:
        return False
    return network.patch == 1 or (height == width and height % network.patch == 0)

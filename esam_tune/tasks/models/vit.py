"""Vision transformers, torchvision's.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv 2010.11929; the small
width is that of Touvron et al., "Training data-efficient image transformers", arXiv 2012.12877,
table 1.
"""

import math
from typing import Any

from torch import nn

PATCH_SIZE = 16


def vit_s_16(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """ViT-S/16: 12 layers of width 384 with 6 heads, on patches of 16x16 pixels.

    Args:
        in_channels: of the images.
        num_classes: width of the logits.
        image_size: side of the square images in pixels, a multiple of 16.
    """
    from torchvision.models import VisionTransformer

    width = 384
    model: Any = VisionTransformer(
        image_size=image_size,
        patch_size=PATCH_SIZE,
        num_layers=12,
        num_heads=6,
        hidden_dim=width,
        mlp_dim=4 * width,
        num_classes=num_classes,
    )
    if in_channels != 3:
        model.conv_proj = nn.Conv2d(in_channels, width, PATCH_SIZE, PATCH_SIZE)
        # As torchvision initialises the layer that this one replaces.
        fan_in = in_channels * PATCH_SIZE**2
        nn.init.trunc_normal_(model.conv_proj.weight, std=math.sqrt(1 / fan_in))
        nn.init.zeros_(model.conv_proj.bias)
    network: nn.Module = model
    return network

"""Segmentation heads for frozen features: linear, DeepLabv3 and PSPNet."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

# Of DeepLabv3 for features 16 times as coarse as the image (Chen et al., sec. 4.1), as a ViT with patches of 16 has.
ATROUS_RATES = (6, 12, 18)
PYRAMID_BINS = (1, 2, 3, 6)


def linear_head(width: int, classes: int) -> nn.Module:
    """BatchNorm, which brings features of any model to one scale, and a 1×1 convolution: (B,W,h,w) -> (B,N,h,w)."""
    return nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, classes, 1))


def deeplabv3_head(width: int, classes: int) -> nn.Module:
    """Atrous spatial pyramid pooling, 256 channels, and a 3×3 convolution (torchvision): (B,W,h,w) -> (B,N,h,w)."""
    return DeepLabHead(width, classes, ATROUS_RATES)


class PspHead(nn.Module):
    """Pyramid pooling and a 3×3 convolution (Zhao et al., "Pyramid Scene Parsing Network", sec. 3.2).

    The map is averaged over 1×1, 2×2, 3×3 and 6×6 bins, each pooled map brought to a quarter of the channels and back
    to the size of the map, and all of it concatenated with the map.

    Args:
        width: W, channels of the features.
        classes: N.
        channels: of the last convolution but one.
        bins: to a side.
    """

    def __init__(self, width: int, classes: int, channels: int = 512, bins: tuple[int, ...] = PYRAMID_BINS) -> None:
        super().__init__()
        reduced = max(1, width // len(bins))
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), *_convolution(width, reduced, 1)) for side in bins
        )
        self.last = nn.Sequential(
            *_convolution(width + len(bins) * reduced, channels, 3), nn.Dropout2d(0.1), nn.Conv2d(channels, classes, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B,W,h,w) -> (B,N,h,w)"""
        size = features.shape[-2:]
        pooled = [F.interpolate(level(features), size, mode="bilinear", align_corners=False) for level in self.levels]
        return self.last(torch.cat([features, *pooled], dim=1))


def _convolution(width: int, channels: int, side: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(width, channels, side, padding=side // 2, bias=False)
    return convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


# By name: from W channels to N classes.
HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": linear_head,
    "deeplabv3": deeplabv3_head,
    "pspnet": PspHead,
}

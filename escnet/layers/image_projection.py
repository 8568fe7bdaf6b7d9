"""What an ESC block makes of an image encoder's features before its SAM block sees them (ESC-Net, "ESC block")."""

from __future__ import annotations

from segment_anything.modeling.common import LayerNorm2d
from torch import nn


class ImageProjection(nn.Sequential):
    """Features (B, D, h, w) in the channels of a SAM block, (B, C, h, w).

    A norm follows the 1×1 convolution, as in SAM's own neck: it sets the scale that the SAM block was trained on.

    Args:
        dim: D.
        sam_dim: C.
    """

    def __init__(self, dim: int, sam_dim: int) -> None:
        super().__init__(nn.Conv2d(dim, sam_dim, kernel_size=1), LayerNorm2d(sam_dim))

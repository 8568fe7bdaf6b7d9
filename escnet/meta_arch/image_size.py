"""The size that images are brought to: checked against the patches of the encoder before one is read, and resizing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def fitting_size(key: str, size: Sequence[int], patch_size: int) -> tuple[int, int]:
    """(height, width) as a model takes it.

    Args:
        key: what sets the size, for the message: a key of the configuration, or an option.
        size: height and width in pixels.
        patch_size: side of a patch of the image encoder in pixels.

    Raises:
        ValueError: the patches do not divide a side.
    """
    height, width = size
    if any(side < patch_size or side % patch_size for side in (height, width)):
        near = tuple(max(round(side / patch_size), 1) * patch_size for side in (height, width))
        raise ValueError(
            f"{key} is {(height, width)}; both sides have to be multiples of the patches of the image encoder, "
            f"{patch_size} pixels, such as {near}"
        )
    return height, width


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) pixels to (B, 3, *size), bilinear with antialiasing."""
    if pixels.shape[-2:] == tuple(size):
        return pixels
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)

"""Pixels as CLIP, or SAM, was trained on them."""

from __future__ import annotations

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

# What segment_anything's model subtracts and divides by, for pixels in 0..255, and in 0..1.
SAM_VALUES = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SAM_MEAN, SAM_DEVIATION = (tuple(value / 255 for value in values) for values in SAM_VALUES)


class PixelNormalisation(nn.Module):
    """Subtract a mean and divide by a deviation, channel by channel.

    Args:
        mean, deviation: of each channel, for pixels in 0..1; by default CLIP's.
    """

    def __init__(
        self,
        mean: tuple[float, ...] = OPENAI_DATASET_MEAN,
        deviation: tuple[float, ...] = OPENAI_DATASET_STD,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(deviation).view(-1, 1, 1), persistent=False)

    @classmethod
    def of_sam(cls) -> PixelNormalisation:
        """SAM's, to the bit: its numbers are of pixels in 0..255, and do not survive a division by 255 and back."""
        normalisation = cls(SAM_MEAN, SAM_DEVIATION)
        for buffer, values in zip((normalisation.mean, normalisation.deviation), SAM_VALUES, strict=True):
            buffer.copy_(torch.tensor(values).view(-1, 1, 1))
        return normalisation

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) float pixels in 0..255, normalised."""
        return (pixels - self.mean) / self.deviation

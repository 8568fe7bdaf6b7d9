"""Correlation of an image's cells with words."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def correlation_maps(dense: Tensor, text: Tensor, smoothing: int = 1) -> Tensor:
    """Cosine similarity of each cell with each class (ESC-Net, sec. 3).

    CLIP's dense features vary from cell to cell by more than the picture does, so the mean over neighbours says more
    than a cell alone.

    Args:
        dense: (B, D, h, w) L2-normalised.
        text: (N, D) L2-normalised.
        smoothing: side of the square of cells, around each, over which the similarity is averaged; odd. 1: the cell's
            own.

    Returns:
        (B, N, h, w) float32.
    """
    correlation = torch.einsum("bdhw,nd->bnhw", dense, text).float()
    return correlation if smoothing == 1 else mean_of_neighbours(correlation, smoothing)


def mean_of_neighbours(maps: Tensor, side: int) -> Tensor:
    """(B, N, h, w) maps, averaged over a square of cells around each; at the border over those that are there."""
    return F.avg_pool2d(maps, side, stride=1, padding=side // 2, count_include_pad=False)

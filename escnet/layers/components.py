"""Connected parts of many regions at once: as many pseudo objects as a region has parts, instead of a fixed K."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def largest_components(regions: Tensor, k: int) -> Tensor:
    """Number the connected parts of each region by size and keep the k largest.

    Cells that touch at a corner are connected. The cells of smaller parts go to the kept part whose centre is nearest,
    so that the parts together are the region. Runs on the tensor's device without host synchronisation.

    Args:
        regions: (..., h, w) bool.
        k: the most parts of a region.

    Returns:
        (..., h, w) int64: 0 for the largest part, 1 for the next (equal ones in reading order), -1 outside the region.

    Raises:
        ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    *batch, h, w = regions.shape
    flat = regions.reshape(math.prod(batch), h, w)
    root = connected_roots(flat).flatten(1)  # (M, hw)
    inside = flat.flatten(1)
    # The size of each part stands at its root; stable, so that the part that is met first wins among equals.
    sizes = torch.zeros_like(root).scatter_add_(1, root, inside.long())
    kept = min(k, h * w)
    order = sizes.argsort(dim=1, descending=True, stable=True)[:, :kept]
    is_part = sizes.gather(1, order) > 0
    matches = (root.unsqueeze(1) == order.unsqueeze(2)) & inside.unsqueeze(1) & is_part.unsqueeze(2)  # (M, kept, hw)
    own = torch.where(matches.any(dim=1), matches.to(torch.uint8).argmax(dim=1), -1)
    nearest = _nearest(matches, is_part, (h, w))
    return torch.where(inside & (own < 0), nearest, own).view(regions.shape)


@torch.no_grad()
def connected_roots(regions: Tensor) -> Tensor:
    """The least index of a cell of each cell's part: (M, h, w) bool to (M, h, w) int64; cells outside are their own.

    Each cell takes the least index around it, then that cell's own least index, and so on, h + w times: with the
    second step a path of any length shrinks to half, so that one that fills the grid is one part in time.
    """
    count, h, w = regions.shape
    index = torch.arange(h * w, device=regions.device).view(1, h, w).expand(count, -1, -1)
    root, beyond = index, h * w
    for _ in range(h + w):
        # The least of the eight neighbours, by a maximum of negative numbers; exact in float32 up to 2^24 cells.
        around = -F.max_pool2d(-torch.where(regions, root, beyond).float().unsqueeze(1), 3, stride=1, padding=1)
        root = torch.where(regions, around.squeeze(1).long(), index)
        root = root.flatten(1).gather(1, root.flatten(1)).view(count, h, w)
    return root


def _nearest(matches: Tensor, is_part: Tensor, grid: tuple[int, int]) -> Tensor:
    """The kept part whose centre is nearest to each cell: (M, kept, hw) masks and (M, kept) bool to (M, hw)."""
    rows, columns = torch.meshgrid(*(torch.arange(side, device=matches.device) for side in grid), indexing="ij")
    cells = torch.stack([columns, rows], dim=-1).flatten(0, 1).float()  # (hw, 2)
    weights = matches.float()
    centres = (weights @ cells) / weights.sum(dim=2, keepdim=True).clamp(min=1)
    distance = torch.cdist(centres, cells.expand(len(matches), -1, -1))
    return distance.masked_fill(~is_part.unsqueeze(2), float("inf")).argmin(dim=1)

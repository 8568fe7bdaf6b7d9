"""Which classes of a vocabulary an image is segmented by: choosing, gathering, and naming them by their position."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.ignore_label import IGNORE_LABEL

# Side of the square of cells in which a class has to be found.
REGION = 3


def take_classes(x: Tensor, index: Tensor) -> Tensor:
    """(B, N, ...) and the classes (B, M) of each image to (B, M, ...)."""
    return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:]))


def highest(scores: Tensor, number: int) -> Tensor:
    """(B, N) scores to the classes (B, number) that have the highest, in the order of the vocabulary."""
    return scores.topk(number, dim=1).indices.sort(dim=1).values


def regional_shares(logits: Tensor, points: int = 1) -> Tensor:
    """The largest share that each class has of any square of cells, by the softmax over the classes.

    Whether a picture shows a class is told more surely by a region than by a single cell, where noise speaks, or by
    all of the picture, in which what is small is lost.

    Args:
        logits: (B, N, H, W).
        points: of the logits along the side of a cell.

    Returns:
        (B, N) from 0 to 1.
    """
    shares = logits.softmax(dim=1)
    height, width = (min(REGION * points, side) for side in shares.shape[-2:])
    return F.avg_pool2d(shares, (height, width), stride=points).amax(dim=(2, 3))


def present_classes(targets: Tensor, classes: int) -> tuple[Tensor, int]:
    """(B, N) 1.0 for the classes in (B, H, W) targets, and the most that an image holds.

    Computed where the targets are: as they come from a loader, on the CPU, so that nothing waits for another device.
    """
    counts = torch.zeros(len(targets), classes + 1, device=targets.device)
    # Ignored pixels are counted in one place more, which is dropped.
    counts.scatter_(1, torch.where(targets < 0, classes, targets).flatten(1), 1.0)
    present = counts[:, :classes]
    return present, int(present.sum(dim=1).max())


def positions(targets: Tensor, rows: Tensor, classes: int) -> Tensor:
    """Class ids (B, H, W) as positions in `rows` (B, M); -1 for those that are not among them, and for -1."""
    table = torch.full((len(rows), classes), IGNORE_LABEL, device=rows.device)
    table.scatter_(1, rows, torch.arange(rows.shape[1], device=rows.device).expand_as(rows))
    found = table.gather(1, targets.clamp(min=0).flatten(1)).view_as(targets)
    return torch.where(targets < 0, IGNORE_LABEL, found)

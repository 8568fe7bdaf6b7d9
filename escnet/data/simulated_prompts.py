"""Prompts that answer a model's mistakes: points, loose and exact boxes, masks, and clicks in the error region."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes

# SAM's own noise of boxes, as a share of their sides, and its limit, as a share of the input's side.
BOX_NOISE, BOX_LIMIT = 0.1, 20 / 1024


def random_clicks(predicted: Tensor, targets: Tensor, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Click anywhere in the error region; on the object where nothing is wrong.

    Args:
        predicted, targets: (P, H, W) bool; no target is empty. Nothing predicted: a click anywhere on the object.
        side: of the model's square input, which the masks cover, in pixels.
        generator: decides where.

    Returns:
        (P, 2) points (x, y), as indices of pixels of the input, and (P,) labels: 1 on the object, 0 beside it.
    """
    error = (predicted ^ targets).flatten(1)
    flat = targets.flatten(1)
    region = torch.where(error.any(dim=1, keepdim=True), error, flat)
    index = torch.multinomial(region.float().to(generator.device), 1, generator=generator).to(targets.device)
    return _points(index[:, 0], targets, side), flat.gather(1, index)[:, 0].float()


def centre_clicks(predicted: Tensor, targets: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Click where the error region is deepest: at the pixel farthest from what is right, and from the border.

    Missed and false parts are two regions, of which the deeper one is clicked; where nothing is wrong, the object.
    Arguments and result: as `random_clicks`.
    """
    pairs = zip(predicted.cpu().numpy(), targets.cpu().numpy(), strict=True)
    index = torch.tensor([_deepest(p, t) for p, t in pairs], device=targets.device)
    return _points(index, targets, side), targets.flatten(1).gather(1, index[:, None])[:, 0].float()


def clicks_inside(targets: Tensor, side: int, count: int, generators: Sequence[np.random.RandomState]) -> Tensor:
    """Clicks anywhere on masks, each drawn by itself, so that a pixel may be clicked twice.

    Args:
        targets: (P, H, W) bool, none empty.
        side: of the model's square input, which the masks cover, in pixels.
        count: n, clicks on each.
        generators: one for each mask, which decides where.

    Returns:
        (P, n, 2) points (x, y), as indices of pixels of the input: the middles of pixels of the masks.
    """
    inside = [target.flatten().nonzero()[:, 0] for target in targets]
    drawn = [
        cells[generator.randint(len(cells), size=count)] for cells, generator in zip(inside, generators, strict=True)
    ]
    return _points(torch.cat(drawn), targets, side).unflatten(0, (len(targets), count))


def exact_boxes(targets: Tensor, side: int) -> Tensor:
    """Boxes around masks, through the outer edges of their pixels.

    Args:
        targets: (P, H, W) bool, none empty.
        side: of the model's square input, which the masks cover, in pixels.

    Returns:
        (P, 4) left, upper, right and lower edges in the input, where 0 is the middle of its first pixel.
    """
    height, width = targets.shape[-2:]
    edges = masks_to_boxes(targets) + torch.tensor([0.0, 0.0, 1.0, 1.0], device=targets.device)
    return edges * (side / torch.tensor([width, height] * 2, device=targets.device)) - 0.5


def loose_boxes(targets: Tensor, side: int, noise: float, limit: float, generator: torch.Generator) -> Tensor:
    """Boxes whose edges are each off by a normal deviation (Segment Anything, sec. A "Training algorithm").

    Args:
        targets, side: as of `exact_boxes`.
        noise: standard deviation, as a share of the box's side.
        limit: largest deviation, in pixels of the input.
        generator: decides the deviations.
    """
    boxes = exact_boxes(targets, side)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    deviations = torch.randn(boxes.shape, generator=generator, device=generator.device).to(boxes.device)
    return boxes + (deviations * noise * sides).clamp(-limit, limit)


def shrink_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(P, H, W) bool masks at the size of a model's output: a cell belongs to a mask that covers half of it."""
    return F.adaptive_avg_pool2d(masks.float(), size) >= 0.5


def _points(index: Tensor, targets: Tensor, side: int) -> Tensor:
    height, width = targets.shape[-2:]
    cells = torch.stack([index % width, index.div(width, rounding_mode="floor")], dim=1)
    return (cells + 0.5) * (side / torch.tensor([width, height], device=index.device)) - 0.5


def _deepest(predicted: np.ndarray, target: np.ndarray) -> int:
    regions = [target & ~predicted, predicted & ~target]
    if not (predicted ^ target).any():
        regions = [target]
    # The border of the picture bounds a region, too.
    depths = np.stack([distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1] for region in regions])
    return int(depths.max(axis=0).argmax())

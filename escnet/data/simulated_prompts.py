"""Prompts that answer SAM's mistakes: points, loose and exact boxes, masks, and clicks in the error region."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes


@dataclass(frozen=True)
class Prompts:
    """P prompts of the same form, for masks of any images.

    Attributes:
        points: (P, n, 2) clicks (x, y), as indices of pixels of SAM's input; n may be 0.
        labels: (P, n) 1 on the object, 0 beside it.
        boxes: (P, 4) corners (x1, y1, x2, y2), in the same coordinates; the outer edge of pixel i is at i - 0.5.
        masks: (P, 1, 4h, 4w) logits of an earlier prediction, for an h×w grid.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None

    @classmethod
    def from_boxes(cls, boxes: Tensor) -> Prompts:
        """Boxes (P, 4) without clicks."""
        return cls(boxes.new_zeros(len(boxes), 0, 2), boxes.new_zeros(len(boxes), 0), boxes)

    def with_clicks(self, points: Tensor, labels: Tensor) -> Prompts:
        """One click more each: (P, 2) and (P,)."""
        points = torch.cat([self.points, points[:, None]], dim=1)
        return replace(self, points=points, labels=torch.cat([self.labels, labels[:, None]], dim=1))

    def with_masks(self, logits: Tensor) -> Prompts:
        """(P, 4h, 4w) logits in place of the earlier ones."""
        return replace(self, masks=logits[:, None])


def predict_masks(sam: Sam, features: Tensor, prompts: Prompts, multimask: bool) -> tuple[Tensor, Tensor]:
    """SAM's answer to prompts of several images at once.

    Args:
        sam: segment_anything's model.
        features: (P, C, h, w) image features, of each prompt's image.
        prompts: P of them.
        multimask: three masks for an ambiguous prompt, or one.

    Returns:
        (P, 3 or 1, 4h, 4w) mask logits and the (P, 3 or 1) IoU that SAM expects of them, in fp32.
    """
    # Fourier features of positions need more digits than a lower precision has.
    with torch.autocast(features.device.type, enabled=False):
        points = (prompts.points, prompts.labels) if prompts.labels.shape[1] else None
        sparse, dense = sam.prompt_encoder(points, prompts.boxes, prompts.masks)
        positions = sam.prompt_encoder.get_dense_pe()
        # The decoder takes one image for all prompts and adds the dense prompts to it, so the images come with these.
        dense = dense + features.float()
    masks, quality = sam.mask_decoder(dense.new_zeros(1, *dense.shape[1:]), positions, sparse, dense, multimask)
    return masks.float(), quality.float()


def likeliest_mask(masks: Tensor, quality: Tensor) -> Tensor:
    """Of each prompt's masks the one SAM expects most of: (P, m, 4h, 4w) and (P, m) to (P, 4h, 4w)."""
    return masks[torch.arange(len(masks)), quality.argmax(dim=1)]


def random_clicks(predicted: Tensor, targets: Tensor, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Click anywhere in the error region; on the object where nothing is wrong.

    Args:
        predicted, targets: (P, H, W) bool; no target is empty. Nothing predicted: a click anywhere on the object.
        side: of SAM's input, which the masks cover, in pixels.
        generator: decides where.

    Returns:
        (P, 2) points (x, y) and (P,) labels, as `Prompts` has them.
    """
    error = (predicted ^ targets).flatten(1)
    flat = targets.flatten(1)
    region = torch.where(error.any(dim=1, keepdim=True), error, flat)
    index = torch.multinomial(region.float(), 1, generator=generator)
    return _points(index[:, 0], targets, side), flat.gather(1, index)[:, 0].float()


def centre_clicks(predicted: Tensor, targets: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Click where the error region is deepest: at the pixel farthest from what is right, and from the border.

    Missed and false parts are two regions, of which the deeper one is clicked; where nothing is wrong, the object.
    Arguments and result: as `random_clicks`.
    """
    index = torch.tensor([_deepest(p, t) for p, t in zip(predicted.numpy(), targets.numpy(), strict=True)])
    return _points(index, targets, side), targets.flatten(1).gather(1, index[:, None])[:, 0].float()


def exact_boxes(targets: Tensor) -> Tensor:
    """(P, 4) boxes around (P, H, W) bool masks, through the outer edges of their pixels."""
    return masks_to_boxes(targets) + torch.tensor([-0.5, -0.5, 0.5, 0.5])


def loose_boxes(targets: Tensor, noise: float, limit: float, generator: torch.Generator) -> Tensor:
    """Boxes whose edges are each off by a normal deviation (Segment Anything, sec. A "Training algorithm").

    Args:
        targets: (P, H, W) bool.
        noise: standard deviation, as a share of the box's side.
        limit: largest deviation, in pixels.
        generator: decides the deviations.
    """
    boxes = exact_boxes(targets)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + (torch.randn(boxes.shape, generator=generator) * noise * sides).clamp(-limit, limit)


def shrink_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(P, H, W) bool masks at the size of SAM's output: a cell belongs to a mask that covers at least half of it."""
    return F.adaptive_avg_pool2d(masks.float(), size) >= 0.5


def _points(index: Tensor, targets: Tensor, side: int) -> Tensor:
    height, width = targets.shape[-2:]
    cells = torch.stack([index % width, index.div(width, rounding_mode="floor")], dim=1)
    return (cells + 0.5) * (side / torch.tensor([width, height])) - 0.5


def _deepest(predicted: np.ndarray, target: np.ndarray) -> int:
    regions = [target & ~predicted, predicted & ~target]
    if not (predicted ^ target).any():
        regions = [target]
    # The border of the picture bounds a region, too.
    depths = np.stack([distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1] for region in regions])
    return int(depths.max(axis=0).argmax())

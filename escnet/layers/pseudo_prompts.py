"""Pseudo prompts: points, masks and boxes for SAM, read off CLIP's correlation maps (ESC-Net, "PPG")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from escnet.layers.kmeans import batched_kmeans

SOFTMAX_AXES = ("class", "space")


@dataclass(frozen=True)
class PseudoPrompts:
    """Prompts of K objects for each of N classes on a grid of h×w cells.

    Attributes:
        points: (B, N, K, 2) float, (x, y) in grid cells; the cell of highest probability in each object.
        labels: (B, N, K) int64, 1 for an object, -1 for padding (SAM's "not a point").
        boxes: (B, N, K, 4) float, (x0, y0, x1, y1): first and last cell of each object, both inside.
        assignment: (B, N, h, w) int64, the object to which a cell belongs, -1 outside the region.
        probability: (B, N, h, w) float, the map from which the region was cut.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor
    assignment: Tensor
    probability: Tensor

    @property
    def region(self) -> Tensor:
        """(B, N, h, w) bool: the union of the objects of each class."""
        return self.assignment >= 0

    @property
    def masks(self) -> Tensor:
        """(B, N, K, h, w) bool: the mask of each object; empty for padding."""
        return self.assignment.unsqueeze(2) == _object_index(self.labels.shape[2], self.assignment)

    def classes(self, chunk: slice) -> PseudoPrompts:
        """The prompts of some of the classes."""
        return PseudoPrompts(*(getattr(self, name)[:, chunk] for name in self.__dataclass_fields__))


class PseudoPromptGenerator(nn.Module):
    """Turn correlation maps into K point, mask and box prompts per class, without gradient.

    A softmax gives a probability map, which is binarised at `alpha`; k-means on the coordinates of the region's cells
    gives K objects; each has as point its most probable cell (ESC-Net, "Pseudo Prompt Generator"). The paper leaves
    the axis of the softmax open:

    - `class`: over the classes at each cell; `alpha` is a probability.
    - `space`: over the cells of each class; `alpha` is a share of the map's peak, since the values themselves shrink
      with the number of cells.

    A class whose region is empty keeps its most probable cell. Objects beyond the number of cells are padding.

    Args:
        num_prompts: K.
        alpha: the threshold, in (0, 1).
        softmax_axis: `class` or `space`.
        kmeans: back end of `batched_kmeans`, `torch` or `sklearn`.

    Raises:
        ValueError: for a K below 1, an alpha outside (0, 1) or an unknown axis.
    """

    def __init__(
        self,
        num_prompts: int = 5,
        alpha: float = 0.5,
        softmax_axis: str = "class",
        kmeans: str = "torch",
    ) -> None:
        super().__init__()
        if num_prompts < 1:
            raise ValueError(f"num_prompts must be at least 1, got {num_prompts}")
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        if softmax_axis not in SOFTMAX_AXES:
            raise ValueError(f"softmax_axis must be one of {SOFTMAX_AXES}, got {softmax_axis!r}")
        self.num_prompts = num_prompts
        self.alpha = alpha
        self.softmax_axis = softmax_axis
        self.kmeans = kmeans

    @torch.no_grad()
    def forward(self, correlation: Tensor, logit_scale: Tensor | float) -> PseudoPrompts:
        """
        Args:
            correlation: (B, N, h, w) cosine similarity of each cell with each class.
            logit_scale: CLIP's temperature, by which the similarity is multiplied before the softmax.
        """
        probability = self.probability(correlation.float(), logit_scale)
        assignment = batched_kmeans(self._region(probability), self.num_prompts, backend=self.kmeans).assignment
        objects = assignment.unsqueeze(2) == _object_index(self.num_prompts, assignment)
        return PseudoPrompts(
            points=_most_probable_cells(probability, objects),
            labels=torch.where(objects.flatten(3).any(dim=3), 1, -1),
            boxes=_bounding_boxes(objects),
            assignment=assignment,
            probability=probability,
        )

    def probability(self, correlation: Tensor, logit_scale: Tensor | float) -> Tensor:
        """(B, N, h, w) correlation to the map in [0, 1] that `alpha` cuts."""
        scaled = correlation * logit_scale
        if self.softmax_axis == "class":
            return scaled.softmax(dim=1)
        # The softmax over the cells divided by its own peak: the normaliser cancels.
        return (scaled - scaled.amax(dim=(2, 3), keepdim=True)).exp()

    def _region(self, probability: Tensor) -> Tensor:
        region = probability >= self.alpha
        flat = probability.flatten(2)
        peak = torch.zeros_like(flat, dtype=torch.bool).scatter_(2, flat.argmax(dim=2, keepdim=True), True)
        is_empty = ~region.flatten(2).any(dim=2)
        return region | (peak & is_empty.unsqueeze(2)).view_as(region)


def _object_index(num_prompts: int, like: Tensor) -> Tensor:
    return torch.arange(num_prompts, device=like.device, dtype=like.dtype).view(1, 1, -1, 1, 1)


def _most_probable_cells(probability: Tensor, objects: Tensor) -> Tensor:
    """(B, N, h, w) map and (B, N, K, h, w) masks to the (x, y) of each object's peak, (B, N, K, 2)."""
    width = probability.shape[-1]
    inside = probability.unsqueeze(2).masked_fill(~objects, -1.0)
    cell = inside.flatten(3).argmax(dim=3)
    return torch.stack([cell % width, cell // width], dim=-1).float()


def _bounding_boxes(objects: Tensor) -> Tensor:
    """(B, N, K, h, w) masks to (x0, y0, x1, y1) in cells, both ends inside; zeros for an empty mask."""
    corners = []
    for occupied in (objects.any(dim=3), objects.any(dim=4)):  # columns, then rows
        order = occupied.to(torch.uint8)
        first = order.argmax(dim=3)
        last = order.shape[3] - 1 - order.flip(3).argmax(dim=3)
        corners.append((first, torch.where(occupied.any(dim=3), last, 0)))
    (x0, x1), (y0, y1) = corners
    return torch.stack([x0, y0, x1, y1], dim=-1).float()

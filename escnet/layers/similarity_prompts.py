"""Points and a mask prompt read off the similarity of an image's cells with a word (CLIP-Guided SAM, sec. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.layers.point_sampling import SampledPoints, sample_evenly

# A map that is the same everywhere has no place of its own: it stays at 0.
_EPSILON = 1e-6


class SimilarityPrompts(NamedTuple):
    """The prompts of P words.

    Attributes:
        points: K for each; their labels are -1, SAM's label of no point, where nothing exceeds the threshold.
        region: (P,H,W) bool, where the points may be, and the mask prompt.
    """

    points: SampledPoints
    region: Tensor


@dataclass(frozen=True)
class SimilarityPrompter:
    """Reads prompts off similarity maps, without gradient.

    Arguments:
        points: K.
        threshold: of the maps, stretched to 0..1.
    """

    points: int = 5
    threshold: float = 0.8

    @torch.no_grad()
    def __call__(self, similarity: Tensor, size: tuple[int, int], uniform: Tensor) -> SimilarityPrompts:
        """Draw points evenly, with replacement, from what exceeds the threshold.

        Arguments:
          similarity: (P,h,w).
          size: (H,W) to which a map is brought, bilinearly, before it is cut: that of a mask prompt.
          uniform: (K,) or (P,K) random numbers in 0..1, which decide the points.
        """
        similarity = similarity.float()
        low, high = (bound[:, None, None] for bound in similarity.flatten(1).aminmax(dim=1))
        stretched = (similarity - low) / (high - low).clamp(min=_EPSILON)
        fine = F.interpolate(stretched[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        region = fine > self.threshold
        return SimilarityPrompts(sample_evenly(region, uniform), region)

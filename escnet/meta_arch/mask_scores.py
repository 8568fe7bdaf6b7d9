"""Masks that SAM draws for words, made into a label map: the score of a word is CLIP's, its shape is SAM's."""

from __future__ import annotations

import torch
from torch import Tensor

# A score below this counts as this much, so that resizing the logits is not ruled by classes that are out of question.
LEAST_SCORE = 1e-6


class MaskScores:
    """Scores of N classes at each position x, from CLIP's probability p(n|x) and the mask logits m_o of objects o.

    The score of an object of class n is CLIP's word for the inside of its mask, and a class is where its best object
    is. CLIP's own map has a say everywhere, so that a word without objects, or a place outside all masks, is not lost:

        s_o    = mean of p(n|x) over the x with m_o(x) > 0
        q(n|x) = max over the objects o of n of s_o · sigmoid(m_o(x)); 0 for a class without objects
        logit  = log((1 - share) · p(n|x) + share · q(n|x))

    Below `LEAST_SCORE` the logarithm is cut off. An object whose mask is empty has the score 0.

    Args:
        probability: (N, H, W) of one image.
        share: of the masks, from 0 to below 1.
    """

    def __init__(self, probability: Tensor, share: float) -> None:
        self.probability = probability
        self.share = share
        self._score = torch.zeros_like(probability)

    def inside(self, classes: Tensor, masks: Tensor) -> Tensor:
        """s_o (P,) of objects: their classes (P,) and mask logits (P, H, W)."""
        inside = masks > 0
        return (self.probability[classes] * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1)

    def add(self, classes: Tensor, masks: Tensor, scores: Tensor | None = None) -> None:
        """Add objects: their classes (P,), mask logits (P, H, W), and scores (P,) where they are not s_o."""
        scores = self.inside(classes, masks) if scores is None else scores
        of_objects = scores[:, None, None] * masks.sigmoid()
        self._score.scatter_reduce_(0, classes[:, None, None].expand_as(of_objects), of_objects, "amax")

    def logits(self) -> Tensor:
        """(N, H, W)"""
        return self.probability.lerp(self._score, self.share).clamp(min=LEAST_SCORE).log()

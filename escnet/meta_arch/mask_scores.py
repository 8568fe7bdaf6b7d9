"""Masks that SAM draws for words, made into a label map: the score of a word is CLIP's, its shape is SAM's."""

from __future__ import annotations

import torch
from torch import Tensor

# A score below this counts as this much, so that resizing the logits is not ruled by classes that are out of question.
LEAST_SCORE = 1e-6


class MaskScores:
    """Scores of N classes at each position x, from CLIP's probability p(n|x) and the mask logits m_o of objects o.

    The score of an object of class n is CLIP's word for the inside of its mask; a class is where its best object is:

        s_o    = mean of p(n|x) over the x with m_o(x) > 0
        q(n|x) = max over the objects o of n of s_o · sigmoid(m_o(x)); 0 for a class without objects
        logit  = log q(n|x) where some mask covers x (m_o(x) > 0 for some o), else log p(n|x)

    Below `LEAST_SCORE` the logarithm is cut off. An object whose mask is empty has the score 0.

    Args:
        probability: (N, H, W) of one image.
    """

    def __init__(self, probability: Tensor) -> None:
        self.probability = probability
        self._score = torch.zeros_like(probability)
        self._covered = torch.zeros_like(probability[0], dtype=torch.bool)

    def add(self, classes: Tensor, masks: Tensor) -> None:
        """Add objects: their classes (P,) and mask logits (P, H, W)."""
        inside = masks > 0
        mean = (self.probability[classes] * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1)
        of_objects = mean[:, None, None] * masks.sigmoid()
        self._score.scatter_reduce_(0, classes[:, None, None].expand_as(of_objects), of_objects, "amax")
        self._covered |= inside.any(dim=0)

    def logits(self) -> Tensor:
        """(N, H, W)"""
        return torch.where(self._covered, self._score, self.probability).clamp(min=LEAST_SCORE).log()

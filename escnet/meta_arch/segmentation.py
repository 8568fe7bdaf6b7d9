"""What a model says of images, and how that becomes a label map at image size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.layers.pseudo_prompts import PseudoPrompts
from escnet.meta_arch.label_map import label_map
from escnet.vocabulary import Vocabulary


@dataclass(frozen=True)
class Segmentation:
    """What a model says of a batch of images, before it is brought to image size.

    Attributes:
        logits: (B, M, H', W'), one map for each row of the vocabulary that was considered.
        rows: (B, M) those rows, or None when all were considered in order.
        correlations: for drawing: (B, M, h, w) each, CLIP's correlation maps, then those after each block.
        prompts: for drawing: the pseudo prompts of each block.
    """

    logits: Tensor
    rows: Tensor | None = None
    correlations: list[Tensor] = field(default_factory=list)
    prompts: list[PseudoPrompts] = field(default_factory=list)

    def row_probabilities(self, rows: int) -> Tensor:
        """(B, rows, H', W') softmax over the rows of the vocabulary; zero for those that were not considered."""
        probability = self.logits.float().softmax(dim=1)
        if self.rows is None:
            return probability
        full = probability.new_zeros(probability.shape[0], rows, *probability.shape[2:])
        index = self.rows[:, :, None, None].expand_as(probability)
        return full.scatter_(1, index, probability)

    def at_image_size(self, vocabulary: Vocabulary, size: tuple[int, int], full_scores: bool = False) -> dict[str, Any]:
        """The first image at its size.

        Args:
            vocabulary: the words that it was segmented by.
            size: (H, W).
            full_scores: also give the probability of every class.

        Returns:
            `labels` (H, W) int64 index into `vocabulary.class_names`, `scores` (H, W) its probability and, with
            `full_scores`, `sem_seg` (N, H, W) probabilities.
        """
        logits = self.logits[0].float()
        row_to_class = torch.tensor(vocabulary.row_to_class, device=logits.device)
        to_class = row_to_class if self.rows is None else row_to_class[self.rows[0]]
        labels, scores = label_map(logits, size)
        result = {"labels": to_class[labels], "scores": scores}
        if full_scores:
            probability = F.interpolate(logits[None].softmax(dim=1), size, mode="bilinear", align_corners=False)[0]
            full = probability.new_zeros(vocabulary.num_classes, *size)
            # Rows of the background compete one by one, so the best of them speaks for it.
            index = to_class[:, None, None].expand_as(probability)
            result["sem_seg"] = full.scatter_reduce_(0, index, probability, "amax")
        return result

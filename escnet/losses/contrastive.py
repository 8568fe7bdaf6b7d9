"""The symmetric contrastive loss of pairs (CLIP, sec. 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean of the cross entropies image → text and text → image.

    Args:
        images, texts: (n, D) normalised features of n pairs.
        logit_scale: () logarithm of the inverse temperature.

    Returns:
        ().
    """
    logits = logit_scale.exp() * images @ texts.T
    targets = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2

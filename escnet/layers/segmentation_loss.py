"""Pixel losses over the classes of a vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Ids of ignored pixels differ between datasets, and each is the id of a class in some other one. No class is negative.
IGNORE_LABEL = -1


def segmentation_loss(logits: Tensor, targets: Tensor, kind: str = "ce") -> Tensor:
    """Loss of logits, resized to the targets.

    Args:
        logits: (B, N, h, w).
        targets: (B, H, W) int64 class of each pixel, -1 where ignored.
        kind: `ce`, softmax cross entropy over the classes (ESC-Net), or `bce`, binary cross entropy with the one-hot
            target, averaged over pixels and classes (CAT-Seg).

    Returns:
        A scalar; 0, with a gradient of 0, when every pixel is ignored.

    Raises:
        ValueError: for an unknown kind.
    """
    logits = F.interpolate(logits.float(), targets.shape[-2:], mode="bilinear", align_corners=False)
    valid = targets != IGNORE_LABEL
    count = valid.sum().clamp(min=1)
    if kind == "ce":
        return F.cross_entropy(logits, targets, ignore_index=IGNORE_LABEL, reduction="sum") / count
    if kind == "bce":
        one_hot = torch.zeros_like(logits).scatter_(1, targets.clamp(min=0).unsqueeze(1), 1.0)
        per_pixel = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").mean(dim=1)
        return (per_pixel * valid).sum() / count
    raise ValueError(f"loss must be 'ce' or 'bce', got {kind!r}")

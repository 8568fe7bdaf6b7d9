"""Pixel losses over the classes of a vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.ignore_label import IGNORE_LABEL
from escnet.losses.dice import dice_loss


def segmentation_loss(logits: Tensor, targets: Tensor, kind: str = "ce") -> Tensor:
    """Loss of logits, resized to the targets.

    Args:
        logits: (B, N, h, w).
        targets: (B, H, W) int64 class of each pixel, -1 where ignored.
        kind: `ce`, softmax cross entropy over the classes (ESC-Net); `bce`, binary cross entropy with the one-hot
            target, averaged over pixels and classes (CAT-Seg); or `ce_dice`, `ce` plus the soft Dice loss of each
            class that an image holds, where a class of few pixels weighs as much as one of many.

    Returns:
        A scalar; 0, with a gradient of 0, when every pixel is ignored.

    Raises:
        ValueError: for an unknown kind.
    """
    logits = F.interpolate(logits.float(), targets.shape[-2:], mode="bilinear", align_corners=False)
    valid = targets != IGNORE_LABEL
    count = valid.sum().clamp(min=1)
    if kind in ("ce", "ce_dice"):
        loss = F.cross_entropy(logits, targets, ignore_index=IGNORE_LABEL, reduction="sum") / count
        return loss + _class_dice_loss(logits, targets, valid) if kind == "ce_dice" else loss
    if kind == "bce":
        one_hot = torch.zeros_like(logits).scatter_(1, targets.clamp(min=0).unsqueeze(1), 1.0)
        per_pixel = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").mean(dim=1)
        return (per_pixel * valid).sum() / count
    raise ValueError(f"loss must be one of 'ce', 'bce' and 'ce_dice', got {kind!r}")


def _class_dice_loss(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Mean Dice loss over the classes that each image holds."""
    share = logits.softmax(dim=1) * valid.unsqueeze(1)
    classes = targets.clamp(min=0)
    hit = share.gather(1, classes.unsqueeze(1)).flatten(1)
    overlap, size = (
        torch.zeros_like(share[..., 0, 0]).scatter_add(1, classes.flatten(1), amount)
        for amount in (hit, valid.flatten(1).to(share.dtype))
    )
    loss = dice_loss(overlap, share.sum(dim=(2, 3)), size)
    present = size > 0
    return (loss * present).sum() / present.sum().clamp(min=1)

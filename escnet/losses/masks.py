"""Losses and overlap of masks that answer prompts (Segment Anything, sec. A "Losses")."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from escnet.losses.dice import dice_loss


def prediction_loss(masks: Tensor, quality: Tensor, targets: Tensor, focal_weight: float, focal_alpha: float) -> Tensor:
    """Loss of the best mask, and of the IoU expected of all.

    Args:
        masks: (P, m, H, W) logits.
        quality: (P, m) expected IoU.
        targets: (P, H, W) bool.
        focal_weight: of the focal loss; the Dice loss and the squared error of the IoU have 1.
        focal_alpha: weight of the object's pixels in it.

    Returns:
        (P,) losses.
    """
    truth = targets[:, None].expand_as(masks)
    values = truth.to(masks.dtype)
    focal = sigmoid_focal_loss(masks, values, alpha=focal_alpha, gamma=2.0).mean(dim=(-2, -1))
    best = (focal_weight * focal + mask_dice_loss(masks, values)).min(dim=1).values
    return best + F.mse_loss(quality, mask_iou(masks.detach() > 0, truth), reduction="none").mean(dim=1)


@dataclass(frozen=True)
class MaskLossWeights:
    """Weights of the terms of `word_mask_loss`: binary cross entropy, Dice loss, soft IoU loss, error of the IoU."""

    bce: float = 1.0
    dice: float = 1.0
    iou: float = 1.0
    quality: float = 0.0


def word_mask_loss(
    masks: Tensor, quality: Tensor, targets: Tensor, valid: Tensor, weights: MaskLossWeights
) -> dict[str, Tensor]:
    """Losses of one mask for each word, and of the IoU that is expected of it (CLIP-Guided SAM, sec. 3 "Loss").

    A target may be empty, where an image does not show a word: its areas are smoothed by one pixel, and the IoU that
    should be expected of whatever is drawn is 0.

    Args:
        masks: (P, H, W) logits.
        quality: (P,) expected IoU.
        targets: (P, H, W) bool.
        valid: (P, H, W) bool, the pixels that count.
        weights: of the terms; those of weight 0 are left out.

    Returns:
        (P,) weighted losses by name: bce, dice, iou, quality.
    """
    masks, values, counted = masks.float(), targets.to(masks.dtype), valid.to(masks.dtype)
    probability = masks.sigmoid() * counted
    values = values * counted
    overlap, drawn, true = (x.sum(dim=(-2, -1)) for x in (probability * values, probability, values))
    losses = {}
    if weights.bce:
        per_pixel = F.binary_cross_entropy_with_logits(masks, values, reduction="none") * counted
        losses["bce"] = weights.bce * per_pixel.sum(dim=(-2, -1)) / counted.sum(dim=(-2, -1)).clamp(min=1)
    if weights.dice:
        losses["dice"] = weights.dice * dice_loss(overlap, drawn, true)
    if weights.iou:
        losses["iou"] = weights.iou * (1 - (overlap + 1) / (drawn + true - overlap + 1))
    if weights.quality:
        reached = mask_iou((masks.detach() > 0) & valid, targets & valid)
        losses["quality"] = weights.quality * (quality.float() - reached).square()
    return losses


def mask_dice_loss(masks: Tensor, targets: Tensor) -> Tensor:
    """Dice loss (...) of mask logits and targets in {0, 1}, (..., H, W) each."""
    probability = masks.sigmoid()
    overlap = (probability * targets).sum(dim=(-2, -1))
    return dice_loss(overlap, probability.sum(dim=(-2, -1)), targets.sum(dim=(-2, -1)))


def mask_iou(predicted: Tensor, targets: Tensor) -> Tensor:
    """IoU (...) of bool masks (..., H, W); 0 where both are empty."""
    common = (predicted & targets).sum(dim=(-2, -1))
    return common / (predicted | targets).sum(dim=(-2, -1)).clamp(min=1)

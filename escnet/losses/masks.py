"""Losses and overlap of masks that answer prompts (Segment Anything, sec. A "Losses")."""

from __future__ import annotations

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


def mask_dice_loss(masks: Tensor, targets: Tensor) -> Tensor:
    """Dice loss (...) of mask logits and targets in {0, 1}, (..., H, W) each."""
    probability = masks.sigmoid()
    overlap = (probability * targets).sum(dim=(-2, -1))
    return dice_loss(overlap, probability.sum(dim=(-2, -1)), targets.sum(dim=(-2, -1)))


def mask_iou(predicted: Tensor, targets: Tensor) -> Tensor:
    """IoU (...) of bool masks (..., H, W); 0 where both are empty."""
    common = (predicted & targets).sum(dim=(-2, -1))
    return common / (predicted | targets).sum(dim=(-2, -1)).clamp(min=1)

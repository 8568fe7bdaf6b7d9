"""The Dice loss of two areas, soft or hard."""

from __future__ import annotations

from torch import Tensor


def dice_loss(overlap: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    """1 - Dice coefficient of areas in pixels (Milletari et al., "V-Net", sec. 3, without the squares).

    One pixel is added to both sides of the fraction, so that two empty areas agree.

    Args:
        overlap: (...) what the areas share.
        predicted, true: (...) each of them.

    Returns:
        (...) in 0..1.
    """
    return 1 - (2 * overlap + 1) / (predicted + true + 1)

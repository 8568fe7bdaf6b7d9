"""Losses and overlap of masks against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses import FakeTensorMode

from escnet.losses.masks import mask_dice_loss, mask_iou, prediction_loss


def test_losses_by_hand() -> None:
    logits, targets = torch.tensor([[[0.0, math.log(3)]]]), torch.tensor([[[1.0, 0.0]]])
    # Probabilities 1/2 and 3/4: in common 1/2, sums 5/4 and 1.
    assert mask_dice_loss(logits, targets).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1.25 + 1 + 1))
    predicted, truth = torch.tensor([[True, True, False]]), torch.tensor([[True, False, True]])
    assert mask_iou(predicted[None], truth[None]).item() == pytest.approx(1 / 3)
    assert mask_iou(torch.zeros(1, 1, 3, dtype=torch.bool), torch.zeros(1, 1, 3, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_only_the_best_mask_counts_and_all_expectations(alpha: float) -> None:
    # A good mask (both pixels right, p = 3/4 and 1/4) and a bad one (both wrong).
    good, bad = [math.log(3), -math.log(3)], [-math.log(3), math.log(3)]
    masks = torch.tensor([[[bad], [good]]], requires_grad=True)
    quality = torch.tensor([[0.5, 0.5]])
    targets = torch.tensor([[[True, False]]])
    focal = -((1 / 4) ** 2) * math.log(3 / 4) * (alpha + 1 - alpha) / 2
    dice = 1 - (2 * 0.75 + 1) / (1 + 1 + 1)
    loss = prediction_loss(masks, quality, targets, 20.0, alpha)
    # Of the two masks the IoU is 0 and 1: each expectation is off by 1/2.
    assert loss.tolist() == pytest.approx([20 * focal + dice + 0.25], rel=1e-5)
    loss.sum().backward()
    assert not masks.grad[0, 0].any()
    assert masks.grad[0, 1].all()


def test_losses_are_where_the_masks_are() -> None:
    with FakeTensorMode():
        masks, quality = torch.randn(2, 3, 8, 8, device="cuda"), torch.randn(2, 3, device="cuda")
        loss = prediction_loss(masks, quality, torch.zeros(2, 8, 8, dtype=torch.bool, device="cuda"), 20.0, 0.75)
    assert loss.device.type == "cuda"

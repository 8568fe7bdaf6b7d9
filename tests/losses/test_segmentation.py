"""Pixel losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from escnet.losses.segmentation import segmentation_loss

KINDS = ["ce", "bce", "ce_dice"]


def test_cross_entropy_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3.0)]], [[0.0, 0.0]]]])  # (1, 2, 1, 2)
    targets = torch.tensor([[[0, 1]]])
    expected = (math.log(2) + math.log(4)) / 2
    assert segmentation_loss(logits, targets).item() == pytest.approx(expected, rel=1e-6)


def test_binary_cross_entropy_by_hand():
    logits = torch.tensor([[[[0.0]], [[math.log(3.0)]]]])
    expected = (math.log(2) + math.log(4)) / 2  # target 0: -log s(0), -log(1 - s(log 3))
    assert segmentation_loss(logits, torch.tensor([[[0]]]), "bce").item() == pytest.approx(expected, rel=1e-6)


def test_dice_by_hand():
    """Three pixels with shares 1/2 : 1/2, 1/4 : 3/4 and 1/4 : 3/4 of two classes; a third class has none of any."""
    logits = torch.tensor([[0.0] * 3, [0.0, math.log(3.0), math.log(3.0)], [-99.0] * 3]).view(1, 3, 1, 3)
    targets = torch.tensor([[[0, 1, -1]]])
    first = 1 - (2 * 1 / 2 + 1) / (3 / 4 + 1 + 1)
    second = 1 - (2 * 3 / 4 + 1) / (5 / 4 + 1 + 1)
    dice = segmentation_loss(logits, targets, "ce_dice") - segmentation_loss(logits, targets, "ce")
    assert dice.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_dice_takes_each_image_alone():
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 4, 4), torch.randint(0, 2, (2, 4, 4))
    alone = [segmentation_loss(logits[i : i + 1], targets[i : i + 1], "ce_dice") for i in range(2)]
    dice_and_ce = segmentation_loss(logits, targets, "ce_dice")
    # Of images of one size, cross entropy is the mean too; with both classes in both, so is Dice.
    torch.testing.assert_close(dice_and_ce, torch.stack(alone).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_pixels_do_not_count(kind):
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 2, 4)
    targets = torch.tensor([[[0, 1, -1, -1], [2, 2, -1, -1]]])
    full = segmentation_loss(logits, targets, kind)
    torch.testing.assert_close(full, segmentation_loss(logits[..., :2], targets[..., :2], kind))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_labels_gives_zero(kind):
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 2, 2), -1), kind)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().max() == 0.0


def test_logits_are_resized_to_the_targets():
    logits = torch.tensor([[[[5.0]], [[-5.0]]]])
    assert segmentation_loss(logits, torch.zeros(1, 6, 7, dtype=torch.long)) < 1e-3


def test_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="dice"):
        segmentation_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), "dice")

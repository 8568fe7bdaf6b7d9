"""Masks of words made into scores, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from escnet.meta_arch.mask_scores import LEAST_SCORE, MaskScores

# Three classes at four places in a row.
PROBABILITY = torch.tensor([[[0.6, 0.5, 0.1, 0.1]], [[0.3, 0.3, 0.8, 0.7]], [[0.1, 0.2, 0.1, 0.2]]])
INSIDE, OUTSIDE = math.log(3), -math.log(3)  # sigmoids of 3/4 and 1/4


def test_a_score_is_a_share_of_the_mask_and_the_rest_of_the_map() -> None:
    scores = MaskScores(PROBABILITY, 0.8)
    scores.add(torch.tensor([0]), torch.tensor([[[INSIDE, INSIDE, OUTSIDE, OUTSIDE]]]))
    found = scores.logits().exp()
    # Inside the mask the mean of 0.6 and 0.5 is 0.55.
    first = [
        0.2 * p + 0.8 * 0.55 * sigmoid
        for p, sigmoid in zip((0.6, 0.5, 0.1, 0.1), (0.75, 0.75, 0.25, 0.25), strict=True)
    ]
    torch.testing.assert_close(found[0, 0], torch.tensor(first))
    torch.testing.assert_close(found[1:], 0.2 * PROBABILITY[1:])


def test_of_several_objects_of_a_class_the_best_counts() -> None:
    scores = MaskScores(PROBABILITY, 0.5)
    masks = torch.tensor([[[INSIDE, OUTSIDE, OUTSIDE, OUTSIDE]], [[OUTSIDE, OUTSIDE, INSIDE, OUTSIDE]]])
    scores.add(torch.tensor([1]), masks[:1])
    scores.add(torch.tensor([1]), masks[1:])
    # Objects of 0.3 and 0.8.
    masked = [max(0.3 * 0.75, 0.8 * 0.25), 0.8 * 0.25, 0.8 * 0.75, 0.8 * 0.25]
    expected = [0.5 * p + 0.5 * q for p, q in zip((0.3, 0.3, 0.8, 0.7), masked, strict=True)]
    torch.testing.assert_close(scores.logits()[1, 0].exp(), torch.tensor(expected))


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_without_objects_the_label_map_is_clips_own(share: float) -> None:
    assert torch.equal(MaskScores(PROBABILITY, share).logits().argmax(0), PROBABILITY.argmax(0))


def test_an_empty_mask_scores_nothing_and_logarithms_stay_finite() -> None:
    scores = MaskScores(torch.zeros(2, 1, 3), 0.8)
    scores.add(torch.tensor([0]), torch.full((1, 1, 3), OUTSIDE))
    torch.testing.assert_close(scores.logits(), torch.full((2, 1, 3), math.log(LEAST_SCORE)))

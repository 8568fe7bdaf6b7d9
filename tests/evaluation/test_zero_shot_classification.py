"""Zero-shot classification, on a model whose features are set by hand and by CLIP's own arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy

from escnet.data.image_folders import ImageFolder, LabelledImage, NamedClasses
from escnet.evaluation.embeddings import ImageEmbeddings
from escnet.evaluation.zero_shot_classification import ClassAccuracy, classification_scores, truth_ranks


def embedded(features: torch.Tensor, unreadable: int = 0) -> ImageEmbeddings:
    names = tuple(f"{number}.jpg" for number in range(len(features)))
    return ImageEmbeddings(names, features, {f"bad{k}.jpg": "why" for k in range(unreadable)}, "digest")


def test_ranks_against_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(200, 8, generator=generator), dim=1)
    words = F.normalize(torch.randn(30, 8, generator=generator), dim=1)
    truth = torch.randint(0, 30, (200,), generator=generator)
    ranks = truth_ranks(features, truth, words)
    for k in (1, 5):
        expected = multiclass_accuracy(features @ words.T, truth, num_classes=30, top_k=k, average="micro")
        assert (ranks < k).float().mean().item() == pytest.approx(expected.item())


def test_scores_by_hand() -> None:
    """Seven classes along the axes, of which folders b and a are classes 4 and 0; images point where they should."""
    classes = NamedClasses(tuple("abcdefg"), (4, 0))
    images = [LabelledImage(f"{number}.jpg", label) for number, label in enumerate((0, 0, 0, 1))]
    folder = ImageFolder(Path("."), ("b", "a"), (*images, LabelledImage("bad0.jpg", 1)))
    features = torch.zeros(4, 7)
    features[0, 4] = 1  # right
    features[1, :5] = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5])  # the fifth
    features[2] = torch.tensor([6.0, 5.0, 4.0, 3.0, 0.0, 2.0, 1.0])  # the last
    features[3, 0] = 1  # right
    scores = classification_scores(embedded(features, unreadable=1), folder, classes, torch.eye(7))
    assert (scores.top1, scores.top5) == (0.5, 0.75)
    assert scores.mean_class == pytest.approx((1 / 3 + 1) / 2)
    assert (scores.images, scores.unreadable) == (4, 1)
    assert scores.classes[4] == ClassAccuracy("e", 3, pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert scores.classes[0] == ClassAccuracy("a", 1, 1.0, 1.0)
    assert scores.classes[1] == ClassAccuracy("b", 0, None, None)


def test_of_equally_similar_classes_the_first_wins() -> None:
    """As argmax has it: two classes of one name cannot both be right."""
    words = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    ranks = truth_ranks(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 2]), words)
    assert ranks.tolist() == [0, 1]


def test_features_that_are_no_numbers_are_not_right() -> None:
    with pytest.raises(ValueError, match="not finite"):
        truth_ranks(torch.tensor([[torch.nan, 1.0]]), torch.tensor([0]), torch.eye(2))

"""Features judged by texts: means inside masks, nearest classes, retrieval."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from escnet.evaluation.classification import nearest_class, pool_masks, retrieval_recall, retrieval_recalls


def test_pooled_masks_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(5, 4, 4, generator=generator)
    masks = torch.rand(3, 16, 16, generator=generator) > 0.5
    for k, pooled in enumerate(pool_masks(dense, masks)):
        total = sum(dense[:, y // 4, x // 4] for y in range(16) for x in range(16) if masks[k, y, x])
        torch.testing.assert_close(pooled, F.normalize(total, dim=0))


def test_the_nearest_class_is_that_of_the_smallest_angle() -> None:
    classes = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), dim=1)
    assert nearest_class(torch.tensor([[5.0, 0.1], [0.2, 0.1], [0.0, 0.3]]), classes).tolist() == [0, 1, 2]


def test_equal_captions_count_as_right() -> None:
    """Features set by hand: each caption's own direction, so that retrieval is perfect."""
    captions = ["a pear", "a cat", "a pear", "a tree"]
    codes = {caption: F.one_hot(torch.tensor(i), 4).float() for i, caption in enumerate(dict.fromkeys(captions))}
    texts = torch.stack([codes[caption] for caption in captions])
    assert retrieval_recall(texts, texts, captions) == (1.0, 1.0)
    assert retrieval_recall(texts.roll(1, dims=0), texts, captions)[0] < 0.2


def test_retrieval_tells_the_two_directions_apart() -> None:
    images = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Both images are nearest to the first text; each text is nearest to its own image.
    assert retrieval_recall(images, texts, ["a", "b"]) == (0.5, 1.0)


def test_retrieval_with_several_captions_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(300, 6, generator=generator), dim=1)
    owners = [image for image in range(300) for _ in range(1 + image % 3)]
    texts = F.normalize(torch.randn(len(owners), 6, generator=generator), dim=1)
    found = retrieval_recalls(images, texts, owners, ranks=(1, 5, 40))
    similarity = (images @ texts.T).tolist()
    for k in (1, 5, 40):
        hits = sum(
            any(owners[j] == i for j in sorted(range(len(owners)), key=lambda j: -row[j])[:k])
            for i, row in enumerate(similarity)
        )
        assert found.image_to_text[k] == hits / 300
        sought = sum(owner in sorted(range(300), key=lambda i: -similarity[i][j])[:k] for j, owner in enumerate(owners))
        assert found.text_to_image[k] == sought / len(owners)


def test_equal_captions_count_only_where_they_are_to() -> None:
    images = torch.eye(2)
    texts = torch.eye(2).flip(0)
    assert retrieval_recalls(images, texts, (0, 1), ranks=(1, 2)) == ({1: 0.0, 2: 1.0}, {1: 0.0, 2: 1.0})
    assert retrieval_recalls(images, texts, (0, 1), ["a", "a"], ranks=(1,)) == ({1: 1.0}, {1: 1.0})

"""Retrieval among images and captions, on a model that reads colours and the names of colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from escnet.data.captions import Captions
from escnet.evaluation.retrieval import evaluate_retrieval
from escnet.meta_arch.interfaces import ClassifyingModel
from escnet.vocabulary import Vocabulary

COLOURS = ("red", "green", "blue")


class ColourNames(ClassifyingModel):
    """An image is its mean colour, a sentence the colours that it names, if with commas."""

    image_size = (8, 8)

    def encode(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3))

    def summary(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1)

    def text_features(self, vocabulary: Vocabulary) -> Tensor:
        raise AssertionError("captions are no classes")

    def sentence_features(self, sentences: Sequence[str]) -> Tensor:
        named = torch.tensor([[float(colour in sentence) for colour in COLOURS] for sentence in sentences])
        return F.normalize(named, dim=-1)


def test_images_and_captions_find_each_other(tmp_path: Path) -> None:
    for number, colour in enumerate(COLOURS):
        pixels = [0, 0, 0]
        pixels[number] = 200
        Image.new("RGB", (9, 9), tuple(pixels)).save(tmp_path / f"{colour}.png")
    texts = ("a red, red thing", "green", "blue", "green; not this", "never read")
    captions = Captions(("red.png", "gone.png", "blue.png", "green.png"), texts, (0, 3, 2, 0, 1))
    scores = evaluate_retrieval(ColourNames(), tmp_path, captions)
    assert scores.recalls.image_to_text == {1: 1.0, 5: 1.0, 10: 1.0}
    # One of the four captions says green of the red image.
    assert scores.recalls.text_to_image == {1: 0.75, 5: 1.0, 10: 1.0}
    assert (scores.images, scores.captions, scores.unreadable) == (3, 4, 1)
    assert scores.to_dict()["text_to_image"] == pytest.approx({"R@1": 0.75, "R@5": 1.0, "R@10": 1.0})

"""Exported graphs beside the model they were made of: the same pictures and words, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from escnet.exported.segmenter import ExportedSegmenter
from escnet.predictor import Segmenter
from escnet.vocabulary import Vocabulary

# (height, width) of the pictures that are made where none are given.
_MADE_SIZES = ((96, 128), (240, 180), (333, 500))


class Agreement(NamedTuple):
    """How far graphs and model agree.

    Attributes:
        pictures: how many were compared.
        labels: share of their pixels with the same label, from 0 to 1.
        least_labels: that of the picture with the lowest.
        score_difference: the largest difference of a score, where the labels are the same.
        text_difference: the largest difference of a text feature; None for a model with words of its own.
    """

    pictures: int
    labels: float
    least_labels: float
    score_difference: float
    text_difference: float | None


def compare(
    exported: ExportedSegmenter, segmenter: Segmenter, pictures: Sequence[np.ndarray], vocabulary: Vocabulary
) -> Agreement:
    """Segment pictures (H, W, 3) by both, from the exported files and by the model."""
    same, pixels, shares, difference = 0, 0, [], 0.0
    for picture in pictures:
        found, wanted = exported(picture, vocabulary), segmenter(picture, vocabulary)
        equal = found.labels == wanted.labels
        same, pixels = same + int(equal.sum()), pixels + equal.size
        shares.append(float(equal.mean()))
        if equal.any():
            difference = max(difference, float(np.abs(found.scores - wanted.scores)[equal].max()))
    text_difference = None
    if exported.words is None:
        text = segmenter.model.clip_text.encode(vocabulary).cpu().numpy()
        text_difference = float(np.abs(exported.text_features(vocabulary) - text).max())
    return Agreement(len(pictures), same / pixels, min(shares), difference, text_difference)


def made_pictures(seed: int = 0) -> list[np.ndarray]:
    """Pictures of several sizes, (H, W, 3) uint8: coloured discs before gradients, with noise."""
    random = np.random.default_rng(seed)
    pictures = []
    for height, width in _MADE_SIZES:
        y, x = np.mgrid[:height, :width]
        ends = random.uniform(0, 255, (2, 3))
        picture = ends[0] + (ends[1] - ends[0]) * (y / height)[..., None]
        for _ in range(6):
            radius = random.uniform(0.08, 0.3) * min(height, width)
            inside = (y - random.uniform(0, height)) ** 2 + (x - random.uniform(0, width)) ** 2 < radius**2
            picture[inside] = random.uniform(0, 255, 3)
        noise = random.normal(0, 8, picture.shape)
        pictures.append(np.clip(picture + noise, 0, 255).astype(np.uint8))
    return pictures

"""A label map with its words and probabilities, and the masks that it stands for: of classes, or of connected parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from escnet.annotations.outlines import Outline, mask_outlines


class LabelMask(NamedTuple):
    """Where a class is, or a part of it.

    Attributes:
        class_id: index into the class names.
        name: of the class.
        mask: (H, W) bool, with at least one pixel.
        score: the mean probability over the mask.
    """

    class_id: int
    name: str
    mask: np.ndarray
    score: float


class LabelOutline(NamedTuple):
    """The outline of a connected part of a class.

    Attributes:
        class_id: index into the class names.
        name: of the class.
        outline: of the part.
        score: the mean probability over the part, or over its class where no more is known.
        pixels: of the part.
    """

    class_id: int
    name: str
    outline: Outline
    score: float
    pixels: int


@dataclass(frozen=True)
class LabelledImage:
    """What there is to say of an image in other tools' formats.

    Attributes:
        labels: (H, W) integers, indices into `class_names`; others, of pixels without data, belong to no class.
        class_names: the words.
        scores: (H, W) the probability of each pixel's label; or (N,), its mean over each class.
        has_background: whether the last class is what was no word of the user's.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    scores: np.ndarray
    has_background: bool = False

    def class_ids(self, background: bool = False) -> range:
        """The classes of the output; the background is one only if it is asked for."""
        return range(len(self.class_names) - (self.has_background and not background))

    def class_masks(self, background: bool = False) -> Iterator[LabelMask]:
        """The mask of each class that is present."""
        asked = self.class_ids(background)
        for class_id in np.unique(self.labels).tolist():
            if class_id in asked:
                mask = self.labels == class_id
                score = self.scores[class_id] if self.scores.ndim == 1 else self.scores[mask].mean(dtype=np.float64)
                yield LabelMask(class_id, self.class_names[class_id], mask, float(score))

    def object_masks(self, background: bool = False) -> Iterator[LabelMask]:
        """The mask of each connected part of each class; pixels that share a corner alone are not connected."""
        for whole in self.class_masks(background):
            parts, scores, _ = self._parts(whole)
            for number, score in enumerate(scores, start=1):
                yield LabelMask(whole.class_id, whole.name, parts == number, score)

    def outlines(self, background: bool = False) -> Iterator[LabelOutline]:
        """The outline of each connected part of each class, exact to the pixel."""
        for whole in self.class_masks(background):
            _, scores, pixels = self._parts(whole)
            for outline, score, count in zip(mask_outlines(whole.mask), scores, pixels, strict=True):
                yield LabelOutline(whole.class_id, whole.name, outline, score, count)

    def _parts(self, whole: LabelMask) -> tuple[np.ndarray, list[float], list[int]]:
        """The parts of a mask: (H, W) their numbers from 1, the score of each, and its pixels."""
        parts, count = ndimage.label(whole.mask)
        # Of the mask alone, which is mostly a small share of the image.
        numbers = parts[whole.mask]
        pixels = np.bincount(numbers, minlength=count + 1)[1:]
        if self.scores.ndim == 1:
            return parts, [whole.score] * count, pixels.tolist()
        totals = np.bincount(numbers, self.scores[whole.mask], minlength=count + 1)[1:]
        return parts, (totals / pixels).tolist(), pixels.tolist()

"""The paired bootstrap over images: their pixel counts, resamples of them, and the scores of many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from escnet.evaluation.runs.comparable import ComparisonError
from escnet.evaluation.runs.image_results import ImageResult
from escnet.evaluation.scored_classes import ScoredClasses, is_scored

# Resamples computed at a time: bounds the (resamples, N) arrays without slowing the products down.
_CHUNK = 250


@dataclass(frozen=True)
class PixelCounts:
    """Pixels per image and class, (n images, N classes) sparse float64; whole numbers, so that sums are exact.

    Attributes:
        truth: pixels of the class in the truth.
        union: pixels of the class in truth or prediction.
        hits: pixels of the class in both.
        scored: first id and end of the classes that mIoU is the mean of; None: all.
    """

    truth: sparse.csr_array
    union: sparse.csr_array
    hits: sparse.csr_array
    scored: ScoredClasses = None

    def scores(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of several weighted sums of the images, as if each image occurred as often as its weight says.

        Args:
            weights: (S, n) non-negative.

        Returns:
            (S, 3) miou, pixel accuracy and frequency-weighted IoU; (S, N) IoU of each class. NaN where the truth of
            the sum does not define them.
        """
        truth, union, hits = (weights @ counts for counts in (self.truth, self.union, self.hits))
        present, total = truth > 0, truth.sum(axis=1)
        iou = np.divide(hits, union, out=np.full_like(hits, np.nan), where=present)
        found, counted = np.where(present, iou, 0), is_scored(np.arange(truth.shape[1]), self.scored)
        sums = np.stack([(found * counted).sum(axis=1), hits.sum(axis=1), (truth * found).sum(axis=1)], axis=1)
        parts = np.stack([(present & counted).sum(axis=1), total, total], axis=1)
        return np.divide(sums, parts, out=np.full_like(sums, np.nan), where=parts > 0), iou

    def images_of_miou(self) -> int:
        """How many images count for mIoU: all, or those with a scored class in the truth."""
        if self.scored is None:
            return self.truth.shape[0]
        return int(np.count_nonzero(self.truth[:, slice(*self.scored)].sum(axis=1)))


def pixel_counts(results: Sequence[ImageResult], num_classes: int, scored: ScoredClasses = None) -> PixelCounts:
    """The counts of images, in their order, over N classes.

    Raises:
        ComparisonError: a result has a class outside 0 .. N-1.
    """
    rows = np.repeat(np.arange(len(results)), [len(result.entries) for result in results])
    truth, predicted, pixels = np.concatenate([result.entries for result in results]).T
    outside = rows[(np.minimum(truth, predicted) < 0) | (np.maximum(truth, predicted) >= num_classes)]
    if len(outside):
        raise ComparisonError(f"the result of image '{results[outside[0]].image}' has ids outside 0..{num_classes - 1}")

    def matrix(classes: np.ndarray, which: np.ndarray | slice = slice(None)) -> sparse.csr_array:
        entries = (pixels[which].astype(np.float64), (rows[which], classes[which]))
        return sparse.coo_array(entries, shape=(len(results), num_classes)).tocsr()

    in_truth, hits = matrix(truth), matrix(truth, truth == predicted)
    return PixelCounts(in_truth, in_truth + matrix(predicted) - hits, hits, scored)


def resamples(images: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is drawn in each resample: (at most a chunk of S, n) float64 at a time, S rows in all.

    Row by row, n indices are drawn by `numpy.random.default_rng(seed).integers(0, n, n)`.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, samples, _CHUNK):
        rows = range(min(_CHUNK, samples - start))
        draws = [np.bincount(generator.integers(0, images, images), minlength=images) for _ in rows]
        yield np.stack(draws).astype(np.float64)

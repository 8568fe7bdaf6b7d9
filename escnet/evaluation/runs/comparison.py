"""The difference of two runs on the same images, with confidence intervals by a paired bootstrap over the images."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from escnet.evaluation.runs.conditions import differences
from escnet.evaluation.runs.image_results import ImageResult, ImageResults
from escnet.evaluation.runs.run_folder import RunDescription, read_run
from escnet.evaluation.scored_classes import ScoredClasses, is_scored, scored_words
from escnet.safe_files import replacing

# Resamples computed at a time: bounds the (resamples, N) arrays without slowing the products down.
_CHUNK = 250


class ComparisonError(ValueError):
    """Two runs that cannot be compared; the message says in what they differ."""


@dataclass(frozen=True)
class Difference:
    """A score of run A and of run B, as fractions, and the bootstrap of B - A.

    Attributes:
        name: of the score or class.
        a, b: the score over all images; NaN where the class is not in the truth.
        low, high: percentile interval of B - A.
        share_b_higher: share of the resamples in which B is higher.
        resamples: in which the score is defined; a class can be absent from some.
        images: that count: all, or those with the class, or one of those that mIoU is the mean of, in the truth.
    """

    name: str
    a: float
    b: float
    low: float
    high: float
    share_b_higher: float
    resamples: int
    images: int

    @property
    def difference(self) -> float:
        """B - A over all images."""
        return self.b - self.a

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Two runs, A and B, compared.

    Attributes:
        a, b: the runs.
        images: how many both have in common, which is all.
        samples: resamples of the images.
        confidence: of the intervals, such as 0.95.
        conditions: (key, A, B) of each condition that differs.
        scores: of miou, pixel_accuracy and fw_iou, as `SemanticMetrics` defines them.
        classes: of the IoU of each class, in id order.
    """

    a: RunDescription
    b: RunDescription
    images: int
    samples: int
    confidence: float
    conditions: list[tuple[str, Any, Any]]
    scores: list[Difference]
    classes: list[Difference]

    @property
    def least_images(self) -> int:
        """Images below which no difference can be told from chance, however the bootstrap comes out.

        Resamples of k images all show a change if each of them does, yet k equal signs are by chance as likely as
        2^(1-k). An interval of a class in one image even has no width.
        """
        return math.ceil(1 - math.log2(1 - self.confidence))

    def is_clear(self, found: Difference) -> bool:
        """Whether the interval excludes 0, and there are images enough for this to mean something."""
        return found.excludes_zero and found.images >= self.least_images


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


def compare_runs(a: Path, b: Path, samples: int = 1000, seed: int = 0, confidence: float = 0.95) -> Comparison:
    """Compare two runs by a paired bootstrap: each resample of the images, with replacement, is the same for both.

    Args:
        a, b: folders of two runs of the same classes on the same images.
        samples: S, resamples.
        seed: of the resamples; the same seed gives the same numbers.
        confidence: of the intervals, between 0 and 1.

    Raises:
        ComparisonError: the runs have other images, classes or truth, or mIoU is the mean over other classes.
        ResultsError: files of a run are missing or damaged.
        ValueError: samples below 1, or a confidence outside (0, 1).
    """
    if samples < 1:
        raise ValueError(f"{samples} resamples; at least 1 is needed, and 1000 give a fair 95 % interval")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence}; it has to lie between 0 and 1, such as 0.95")
    run_a, run_b = read_run(Path(a)), read_run(Path(b))
    _check_classes(run_a, run_b)
    results_a, results_b = _results(run_a), _results(run_b)
    _check_images(run_a, run_b, results_a.keys(), results_b.keys())
    _check_truth(run_a, run_b, results_a, results_b)
    images = sorted(results_a)
    counts_a = pixel_counts([results_a[image] for image in images], len(run_a.class_names), run_a.scored)
    counts_b = pixel_counts([results_b[image] for image in images], len(run_b.class_names), run_b.scored)

    everything = np.ones((1, len(images)))
    (scores_a, ious_a), (scores_b, ious_b) = counts_a.scores(everything), counts_b.scores(everything)
    changes = [
        tuple(of_b - of_a for of_a, of_b in zip(counts_a.scores(weights), counts_b.scores(weights), strict=True))
        for weights in resamples(len(images), samples, seed)
    ]
    score_changes, class_changes = (np.concatenate(parts) for parts in zip(*changes, strict=True))
    names = (_miou_name(run_a), "pixel accuracy", "fwIoU")
    images_of_scores = [counts_a.images_of_miou(), len(images), len(images)]
    images_with_class = np.bincount(counts_a.truth.indices, minlength=len(run_a.class_names))
    return Comparison(
        run_a,
        run_b,
        len(images),
        samples,
        confidence,
        differences(run_a.conditions, run_b.conditions),
        _summaries(names, images_of_scores, scores_a[0], scores_b[0], score_changes, confidence),
        _summaries(run_a.class_names, images_with_class.tolist(), ious_a[0], ious_b[0], class_changes, confidence),
    )


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


def write_csv(path: str | os.PathLike[str], comparisons: Iterable[Comparison]) -> None:
    """All classes of the comparisons, one row each; IoU and differences are fractions, empty where undefined.

    "clear" is what `Comparison.is_clear` says.
    """
    header = ["dataset", "model_a", "model_b", "id", "name", "iou_a", "iou_b", "difference", "low", "high"]
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*header, "share_b_higher", "resamples", "images", "clear"])
        for compared in comparisons:
            runs = [compared.a.dataset, compared.a.model, compared.b.model]
            for i, found in enumerate(compared.classes):
                values = (found.a, found.b, found.difference, found.low, found.high, found.share_b_higher)
                numbers = ["" if np.isnan(value) else f"{value:.6f}" for value in values]
                writer.writerow(
                    [*runs, i, found.name, *numbers, found.resamples, found.images, compared.is_clear(found)]
                )


def _summaries(
    names: Sequence[str], images: Sequence[int], a: np.ndarray, b: np.ndarray, changes: np.ndarray, confidence: float
) -> list[Difference]:
    """Of the scores `a` and `b` (M,) and their changes in each resample (S, M)."""
    tail = (1 - confidence) / 2
    found = []
    rows = zip(names, images, a.tolist(), b.tolist(), changes.T, strict=True)
    for name, counted, of_a, of_b, column in rows:
        defined = column[~np.isnan(column)]
        if len(defined):
            low, high = np.quantile(defined, [tail, 1 - tail]).tolist()
            higher = float((defined > 0).mean())
        else:
            low = high = higher = float("nan")
        found.append(Difference(name, of_a, of_b, low, high, higher, len(defined), counted))
    return found


def _miou_name(run: RunDescription) -> str:
    return "mIoU" if run.scored is None else f"mIoU over {scored_words(run.scored, len(run.class_names))}"


def _results(run: RunDescription) -> dict[str, ImageResult]:
    results = {result.image: result for result in ImageResults(run.folder)}
    if not results:
        raise ComparisonError(f"{run.folder}: has no results of images (images.*.jsonl); evaluate again")
    return results


def _check_classes(a: RunDescription, b: RunDescription) -> None:
    if len(a.class_names) != len(b.class_names):
        sizes = f"{len(a.class_names)} in A ({a.folder}), {len(b.class_names)} in B ({b.folder})"
        raise ComparisonError(f"the numbers of classes differ: {sizes}; compare runs on one dataset")
    for i, (of_a, of_b) in enumerate(zip(a.class_names, b.class_names, strict=True)):
        if of_a != of_b:
            raise ComparisonError(f"the class names differ at id {i}: '{of_a}' in {a.folder}, '{of_b}' in {b.folder}")
    if a.scored != b.scored:
        raise ComparisonError(
            f"the scored classes differ: A has {_miou_name(a)} ({a.folder}), B has {_miou_name(b)} ({b.folder}); "
            "evaluate both with the same scored_classes in the metadata of the dataset"
        )


def _check_images(a: RunDescription, b: RunDescription, images_a: Iterable[str], images_b: Iterable[str]) -> None:
    images_a, images_b = set(images_a), set(images_b)
    problems = []
    for which, run, only in (("A", a, images_a - images_b), ("B", b, images_b - images_a)):
        if only:
            shown = ", ".join(sorted(only)[:3]) + (", .." if len(only) > 3 else "")
            problems.append(f"{len(only)} images are only in {which} ({run.folder}): {shown}")
    if problems:
        raise ComparisonError(f"{'; '.join(problems)}. Evaluate both on the same images")


def _check_truth(
    a: RunDescription, b: RunDescription, results_a: dict[str, ImageResult], results_b: dict[str, ImageResult]
) -> None:
    differ = sorted(image for image, result in results_a.items() if result.truth != results_b[image].truth)
    if differ:
        raise ComparisonError(
            f"the truth of {len(differ)} images, such as '{differ[0]}', is not the same in {a.folder} and {b.folder}; "
            "the label files were changed or resized in between. Evaluate both on the same labels"
        )

"""The difference of two runs on the same images, with confidence intervals by a paired bootstrap over the images."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from escnet.evaluation.runs.bootstrap import pixel_counts, resamples
from escnet.evaluation.runs.comparable import comparable_results, miou_name
from escnet.evaluation.runs.conditions import differences
from escnet.evaluation.runs.run_folder import RunDescription, read_run
from escnet.safe_files import replacing


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
        scores: of miou, pixel_accuracy and fw_iou, as `SemanticMetrics` defines them; under the oracle protocol of its
            mIoU alone.
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


def compare_runs(a: Path, b: Path, samples: int = 1000, seed: int = 0, confidence: float = 0.95) -> Comparison:
    """Compare two runs by a paired bootstrap: each resample of the images, with replacement, is the same for both.

    Args:
        a, b: folders of two runs of the same classes on the same images.
        samples: S, resamples.
        seed: of the resamples; the same seed gives the same numbers.
        confidence: of the intervals, between 0 and 1.

    Raises:
        ComparisonError: the runs have another protocol, other images, classes or truth, or mIoU is the mean over other
            classes.
        ResultsError: files of a run are missing or damaged.
        ValueError: samples below 1, or a confidence outside (0, 1).
    """
    if samples < 1:
        raise ValueError(f"{samples} resamples; at least 1 is needed, and 1000 give a fair 95 % interval")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence}; it has to lie between 0 and 1, such as 0.95")
    run_a, run_b = read_run(Path(a)), read_run(Path(b))
    results_a, results_b = comparable_results(run_a, run_b)
    images = sorted(results_a)
    classes, scored = run_a.protocol.counting(len(run_a.class_names), run_a.scored)
    counts_a, counts_b = (
        pixel_counts([results[image] for image in images], classes, scored) for results in (results_a, results_b)
    )

    everything = np.ones((1, len(images)))
    (scores_a, ious_a), (scores_b, ious_b) = counts_a.scores(everything), counts_b.scores(everything)
    changes = [
        tuple(of_b - of_a for of_a, of_b in zip(counts_a.scores(weights), counts_b.scores(weights), strict=True))
        for weights in resamples(len(images), samples, seed)
    ]
    score_changes, class_changes = (np.concatenate(parts) for parts in zip(*changes, strict=True))
    names = (miou_name(run_a),) if run_a.protocol.is_oracle else (miou_name(run_a), "pixel accuracy", "fwIoU")
    images_of_scores = [counts_a.images_of_miou(), len(images), len(images)]
    images_with_class = np.bincount(counts_a.truth.indices, minlength=classes)
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


def write_csv(path: str | os.PathLike[str], comparisons: Iterable[Comparison]) -> None:
    """All classes of the comparisons, one row each; IoU and differences are fractions, empty where undefined.

    "clear" is what `Comparison.is_clear` says.
    """
    header = ["dataset", "model_a", "model_b", "id", "name", "iou_a", "iou_b", "difference", "low", "high"]
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*header, "share_b_higher", "resamples", "images", "clear"])
        for compared in comparisons:
            runs = [compared.a.key, compared.a.model, compared.b.model]
            for i, found in enumerate(compared.classes):
                values = (found.a, found.b, found.difference, found.low, found.high, found.share_b_higher)
                numbers = ["" if np.isnan(value) else f"{value:.6f}" for value in values]
                writer.writerow(
                    [*runs, i, found.name, *numbers, found.resamples, found.images, compared.is_clear(found)]
                )


def _summaries(
    names: Sequence[str], images: Sequence[int], a: np.ndarray, b: np.ndarray, changes: np.ndarray, confidence: float
) -> list[Difference]:
    """Of the scores `a` and `b` (M,) and their changes in each resample (S, M), as many as there are names."""
    tail = (1 - confidence) / 2
    found = []
    # Not strict: under the oracle protocol the last scores, and the last class, are none to be told.
    rows = zip(names, images, a.tolist(), b.tolist(), changes.T, strict=False)
    for name, counted, of_a, of_b, column in rows:
        defined = column[~np.isnan(column)]
        if len(defined):
            low, high = np.quantile(defined, [tail, 1 - tail]).tolist()
            higher = float((defined > 0).mean())
        else:
            low = high = higher = float("nan")
        found.append(Difference(name, of_a, of_b, low, high, higher, len(defined), counted))
    return found

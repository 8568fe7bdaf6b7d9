"""The streaming confusion matrix of a segmentation, and the scores that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from escnet.evaluation.scored_classes import ScoredClasses, is_scored, scored_classes, scored_words

# Fields of SemanticMetrics and their names in detectron2's results.
SCORES = {
    "miou": "mIoU",
    "miou_d2_2021": "mIoU_d2_2021",
    "pixel_accuracy": "pACC",
    "mean_accuracy": "mACC",
    "fw_iou": "fwIoU",
}

# Pixels counted at a time: the temporary arrays stay in the processor's cache instead of being paged in anew per image.
_STRIP = 1 << 16


class ConfusionMatrix:
    """Pixel counts of (true class, predicted class) pairs, summed image by image.

    Pixels whose truth is the ignore label are left out altogether: they count neither as truth nor as prediction.
    """

    def __init__(self, num_classes: int, ignore_label: int = 255) -> None:
        """
        Args:
            num_classes: N; class ids are 0 .. N-1.
            ignore_label: id of unlabelled truth pixels. It must not be a class id: 255 serves up to 255 classes,
                16-bit truth with more classes uses 65535.

        Raises:
            ValueError: no classes, or the ignore label is one of the class ids.
        """
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; at least one class is needed")
        if 0 <= ignore_label < num_classes:
            raise ValueError(
                f"ignore label {ignore_label} is also a class id (0..{num_classes - 1}), so that class would silently "
                "not be scored; use an ignore label outside the classes, such as 65535 with 16-bit truth"
            )
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        # The extra last row takes the ignored pixels, which is cheaper than picking out the others.
        self._counts = np.zeros((num_classes + 1, num_classes), dtype=np.int64)

    @property
    def counts(self) -> np.ndarray:
        """(N, N) int64 pixel counts. Row = true class, column = predicted class."""
        return self._counts[:-1]

    def update(self, prediction: np.ndarray | torch.Tensor, truth: np.ndarray | torch.Tensor) -> None:
        """Add one image. After an error the matrix is unchanged.

        Args:
            prediction: (H, W) integer class ids, all of them in 0 .. N-1.
            truth: (H, W) integer class ids or the ignore label, of any integer type.

        Raises:
            ValueError: the maps are not integer (H, W) maps of one size, or hold ids out of range.
        """
        prediction = _as_label_map(prediction, "prediction")
        truth = _as_label_map(truth, "truth")
        if prediction.shape != truth.shape:
            raise ValueError(
                f"prediction is {_size(prediction)} but truth is {_size(truth)} (height x width); "
                "bring the prediction to the size of the truth, never the truth to that of the prediction"
            )
        ignored = truth == self.ignore_label
        self._refuse(
            truth,
            self._out_of_range(truth) & ~ignored,
            f"truth: neither class ids (0..{self.num_classes - 1}) nor the ignore label {self.ignore_label}; "
            "prepare the dataset again, or correct its class list or ignore label",
        )
        self._refuse(
            prediction,
            self._out_of_range(prediction),
            f"prediction: not class ids (0..{self.num_classes - 1}); "
            "predict with the classes of the dataset, or map other words to them first",
        )

        counts = self._counts.reshape(-1)
        truth, prediction, ignored = truth.ravel(), prediction.ravel(), ignored.ravel()
        for start in range(0, truth.size, _STRIP):
            strip = slice(start, start + _STRIP)
            # int64 on both sides: products of 8 and 16 bits overflow, and uint64 + int64 is a float.
            pairs = truth[strip].astype(np.int64)
            pairs[ignored[strip]] = self.num_classes
            pairs *= self.num_classes
            pairs += prediction[strip].astype(np.int64, copy=False)
            np.add.at(counts, pairs, 1)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix, e.g. of another process.

        Raises:
            ValueError: the two differ in the number of classes or the ignore label.
        """
        ours, theirs = (self.num_classes, self.ignore_label), (other.num_classes, other.ignore_label)
        if ours != theirs:
            raise ValueError(
                f"cannot merge confusion matrices with different (classes, ignore label): {ours} and {theirs}"
            )
        self._counts += other._counts

    def entries(self) -> np.ndarray:
        """The pairs that occur, as (M, 3) int64 rows of true class, predicted class, pixels, in this order."""
        truth, predicted = np.nonzero(self.counts)
        return np.stack([truth, predicted, self.counts[truth, predicted]], axis=1)

    def add_entries(self, entries: np.ndarray) -> None:
        """Add what `entries` gave, of this or another matrix.

        Args:
            entries: (M, 3) rows of true class, predicted class, pixels.

        Raises:
            ValueError: another shape, a class out of range, or a count that is not positive.
        """
        entries = np.asarray(entries, dtype=np.int64).reshape(-1, 3)
        if self._out_of_range(entries[:, :2]).any() or (entries[:, 2] <= 0).any():
            raise ValueError(f"entries with classes outside 0..{self.num_classes - 1}, or without pixels")
        np.add.at(self.counts, (entries[:, 0], entries[:, 1]), entries[:, 2])

    def _out_of_range(self, ids: np.ndarray) -> np.ndarray:
        return (ids < 0) | (ids >= self.num_classes)

    @staticmethod
    def _refuse(ids: np.ndarray, wrong: np.ndarray, problem: str) -> None:
        if wrong.any():
            values = np.unique(ids[wrong]).tolist()
            shown = ", ".join(map(str, values[:10])) + (f", ... ({len(values)} ids)" if len(values) > 10 else "")
            raise ValueError(f"ids {shown} in the {problem}")


@dataclass(frozen=True)
class SemanticMetrics:
    """Scores of one confusion matrix, as fractions 0 .. 1; NaN where nothing defines them.

    With TP, FP, FN of a class counted over the pixels whose truth is not ignored, IoU = TP / (TP + FP + FN) and
    accuracy = TP / (TP + FN). "Present" means: at least one such pixel of the ground truth has the class. The means
    are over the scored classes, which are all unless the dataset says otherwise; what is not scored still competes, so
    that one of its pixels which is taken for a scored class is an FP of that class.

    Attributes:
        miou: mean of IoU over the scored classes present in the ground truth. A class that is predicted but not present
            costs only what it takes from the others. The headline, and what current detectron2 reports.
        miou_d2_2021: the same sum of IoU, divided by the number of scored classes present in the ground truth or in
            the prediction, so that a class predicted but not present counts as 0. What detectron2 reported in
            2021, and torchmetrics' macro Jaccard index. Never above `miou`.
        pixel_accuracy: share of the pixels that are right.
        mean_accuracy: mean of the class accuracies over the scored classes present.
        fw_iou: mean of IoU over the classes present, weighted by their share of the ground truth's pixels.
        class_names: N names.
        class_iou, class_accuracy: N values; NaN for a class that is not present.
        truth_pixels, predicted_pixels: N pixel counts (ignored pixels in neither).
        scored: first id and end of the scored classes; None: all.
    """

    miou: float
    miou_d2_2021: float
    pixel_accuracy: float
    mean_accuracy: float
    fw_iou: float
    class_names: tuple[str, ...]
    class_iou: tuple[float, ...]
    class_accuracy: tuple[float, ...]
    truth_pixels: tuple[int, ...]
    predicted_pixels: tuple[int, ...]
    scored: ScoredClasses

    def to_dict(self) -> dict[str, Any]:
        """The scores and one entry per class, in id order, ready for JSON: NaN becomes None.

        `scored_classes`, first id and end, is there only if not all classes are scored.
        """
        per_class = {
            "name": self.class_names,
            "iou": map(_none_if_nan, self.class_iou),
            "accuracy": map(_none_if_nan, self.class_accuracy),
            "truth_pixels": self.truth_pixels,
            "predicted_pixels": self.predicted_pixels,
        }
        classes = [dict(zip(per_class, values, strict=True)) for values in zip(*per_class.values(), strict=True)]
        scored = {} if self.scored is None else {"scored_classes": list(self.scored)}
        return {field: _none_if_nan(getattr(self, field)) for field in SCORES} | scored | {"classes": classes}

    def percentages(self) -> dict[str, float]:
        """The flat dictionary that detectron2's trainer logs and compares: the scores, then `IoU-<class>`."""
        scores = {name: 100 * getattr(self, field) for field, name in SCORES.items()}
        classes = zip(self.class_names, self.class_iou, strict=True)
        return scores | {f"IoU-{name}": 100 * iou for name, iou in classes}

    def table(self) -> str:
        """The scores in percent as a short text table, with the class counts that the two mIoU divide by."""
        classes = len(self.class_names)
        pixels = np.array([self.truth_pixels, self.predicted_pixels])[:, is_scored(np.arange(classes), self.scored)]
        present, either = (pixels[0] > 0).sum(), pixels.any(axis=0).sum()
        over = f"{classes} classes" if self.scored is None else f"mIoU over {scored_words(self.scored, classes)}"
        row = [100 * getattr(self, field) for field in SCORES]
        scores = tabulate([row], headers=list(SCORES.values()), floatfmt=".2f", tablefmt="pipe")
        return f"{scores}\n{over}, {present} in the truth, {either} in truth or prediction"


def semantic_metrics(
    confusion: ConfusionMatrix, class_names: Sequence[str], scored: Sequence[int] | None = None
) -> SemanticMetrics:
    """Compute all scores of a confusion matrix; `SemanticMetrics` defines them.

    Args:
        confusion: counts over N classes.
        class_names: N names.
        scored: first id and end of the classes that mIoU and mean accuracy are the means of; None: all.

    Raises:
        ValueError: the number of names is not N, or the scored classes are not among the N.
    """
    if len(class_names) != confusion.num_classes:
        raise ValueError(f"{len(class_names)} class names given for a matrix of {confusion.num_classes} classes")
    scored = scored_classes(scored, confusion.num_classes)
    counted = is_scored(np.arange(confusion.num_classes), scored)
    correct = confusion.counts.diagonal()
    truth = confusion.counts.sum(axis=1)
    predicted = confusion.counts.sum(axis=0)
    union = truth + predicted - correct
    present = truth > 0
    iou = _ratio(correct, np.where(present, union, 0))
    accuracy = _ratio(correct, truth)
    found = present & counted
    iou_sum = iou[found].sum()
    return SemanticMetrics(
        miou=float(_ratio(iou_sum, found.sum())),
        miou_d2_2021=float(_ratio(iou_sum, ((union > 0) & counted).sum())),
        pixel_accuracy=float(_ratio(correct.sum(), truth.sum())),
        mean_accuracy=float(_ratio(accuracy[found].sum(), found.sum())),
        fw_iou=float(_ratio((truth[present] * iou[present]).sum(), truth.sum())),
        class_names=tuple(class_names),
        class_iou=tuple(iou.tolist()),
        class_accuracy=tuple(accuracy.tolist()),
        truth_pixels=tuple(truth.tolist()),
        predicted_pixels=tuple(predicted.tolist()),
        scored=scored,
    )


def _as_label_map(labels: np.ndarray | torch.Tensor, what: str) -> np.ndarray:
    array = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(f"{what} has shape {array.shape} and type {array.dtype}, expected an (H, W) map of integers")
    return array


def _size(label_map: np.ndarray) -> str:
    height, width = label_map.shape
    return f"{height}x{width}"


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element-wise quotient, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(denominator) > 0, np.divide(numerator, denominator), np.nan)


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value

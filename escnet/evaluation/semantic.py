"""Semantic segmentation scores (mIoU and its relatives) from one streaming confusion matrix."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from escnet.data.images import read_labels, replacing

logger = logging.getLogger(__name__)

# Fields of SemanticMetrics and their names in detectron2's results.
_SCORES = {
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
    accuracy = TP / (TP + FN). "Present" means: at least one such pixel of the ground truth has the class.

    Attributes:
        miou: mean of IoU over the classes present in the ground truth. A class that is predicted but not present
            costs only what it takes from the others. The headline, and what current detectron2 reports.
        miou_d2_2021: the same sum of IoU, divided by the number of classes present in the ground truth or in the
            prediction, so that a class predicted but not present counts as 0. What detectron2 reported in
            2021, and torchmetrics' macro Jaccard index. Never above `miou`.
        pixel_accuracy: share of the pixels that are right.
        mean_accuracy: mean of the class accuracies over the classes present.
        fw_iou: mean of IoU over the classes present, weighted by their share of the ground truth's pixels.
        class_names: N names.
        class_iou, class_accuracy: N values; NaN for a class that is not present.
        truth_pixels, predicted_pixels: N pixel counts (ignored pixels in neither).
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

    def to_dict(self) -> dict[str, Any]:
        """The scores and one entry per class, in id order, ready for JSON: NaN becomes None."""
        per_class = {
            "name": self.class_names,
            "iou": map(_none_if_nan, self.class_iou),
            "accuracy": map(_none_if_nan, self.class_accuracy),
            "truth_pixels": self.truth_pixels,
            "predicted_pixels": self.predicted_pixels,
        }
        classes = [dict(zip(per_class, values, strict=True)) for values in zip(*per_class.values(), strict=True)]
        return {field: _none_if_nan(getattr(self, field)) for field in _SCORES} | {"classes": classes}

    def percentages(self) -> dict[str, float]:
        """The flat dictionary that detectron2's trainer logs and compares: the scores, then `IoU-<class>`."""
        scores = {name: 100 * getattr(self, field) for field, name in _SCORES.items()}
        classes = zip(self.class_names, self.class_iou, strict=True)
        return scores | {f"IoU-{name}": 100 * iou for name, iou in classes}

    def table(self) -> str:
        """The scores in percent as a short text table, with the class counts that the two mIoU divide by."""
        present = sum(pixels > 0 for pixels in self.truth_pixels)
        either = sum(t + p > 0 for t, p in zip(self.truth_pixels, self.predicted_pixels, strict=True))
        row = [100 * getattr(self, field) for field in _SCORES]
        scores = tabulate([row], headers=list(_SCORES.values()), floatfmt=".2f", tablefmt="pipe")
        return f"{scores}\n{len(self.class_names)} classes, {present} in the truth, {either} in truth or prediction"


def semantic_metrics(confusion: ConfusionMatrix, class_names: Sequence[str]) -> SemanticMetrics:
    """Compute all scores of a confusion matrix; `SemanticMetrics` defines them.

    Args:
        confusion: counts over N classes.
        class_names: N names.

    Raises:
        ValueError: the number of names is not N.
    """
    if len(class_names) != confusion.num_classes:
        raise ValueError(f"{len(class_names)} class names given for a matrix of {confusion.num_classes} classes")
    correct = confusion.counts.diagonal()
    truth = confusion.counts.sum(axis=1)
    predicted = confusion.counts.sum(axis=0)
    union = truth + predicted - correct
    present = truth > 0
    iou = _ratio(correct, np.where(present, union, 0))
    accuracy = _ratio(correct, truth)
    iou_sum = iou[present].sum()
    return SemanticMetrics(
        miou=float(_ratio(iou_sum, present.sum())),
        miou_d2_2021=float(_ratio(iou_sum, (union > 0).sum())),
        pixel_accuracy=float(_ratio(correct.sum(), truth.sum())),
        mean_accuracy=float(_ratio(accuracy[present].sum(), present.sum())),
        fw_iou=float(_ratio((truth[present] * iou[present]).sum(), truth.sum())),
        class_names=tuple(class_names),
        class_iou=tuple(iou.tolist()),
        class_accuracy=tuple(accuracy.tolist()),
        truth_pixels=tuple(truth.tolist()),
        predicted_pixels=tuple(predicted.tolist()),
    )


class SemanticEvaluator(DatasetEvaluator):
    """Scores a model over a dataset, for detectron2's `inference_on_dataset`.

    Memory does not grow with the number of images, and each process holds one (N, N) matrix.
    """

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        class_names: Sequence[str] | None = None,
        ignore_label: int | None = None,
        num_classes: int | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        distributed: bool = True,
    ) -> None:
        """
        Args:
            dataset_name: registered dataset whose metadata supply what is not given here.
            class_names: N different names; default: the dataset's `stuff_classes`.
            ignore_label: truth id that is not scored; default: the dataset's `ignore_label`.
            num_classes: if given, checked against the number of names.
            output_dir: folder for `semantic_metrics.json`; None writes nothing.
            distributed: sum over all processes of the process group; otherwise each process scores what it saw.

        Raises:
            ValueError: a value is neither given nor in the metadata, names repeat, or the numbers disagree.
        """
        metadata = {} if dataset_name is None else MetadataCatalog.get(dataset_name)
        names = metadata.get("stuff_classes") if class_names is None else class_names
        ignore = metadata.get("ignore_label") if ignore_label is None else ignore_label
        for value, argument, key in ((names, "class_names", "stuff_classes"), (ignore, "ignore_label", "ignore_label")):
            if value is None:
                raise ValueError(
                    f"no {argument}: the metadata of dataset {dataset_name!r} have no {key!r}; "
                    f"register the dataset before it is evaluated, or pass {argument}"
                )
        repeated = [name for name, times in Counter(names).items() if times > 1]
        if repeated:
            raise ValueError(f"class names occur more than once: {repeated}; per-class scores need different names")
        if num_classes is not None and num_classes != len(names):
            raise ValueError(f"num_classes is {num_classes}, but there are {len(names)} class names")

        self._dataset_name = dataset_name
        self._class_names = tuple(names)
        self._ignore_label = int(ignore)
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._confusion = ConfusionMatrix(len(self._class_names), self._ignore_label)
        self._num_images = 0

    def process(self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]) -> None:
        """Count the images of one batch.

        Args:
            inputs: per image, `sem_seg_truth` (H, W) integer class ids, or else `sem_seg_file_name` to read them from.
            outputs: per image, `labels` (H, W) integer class ids, or else detectron2's `sem_seg` (N, H, W) scores.

        Raises:
            ValueError: a record lacks both keys, sizes differ, or ids are out of range; names the image.
        """
        for record, output in zip(inputs, outputs, strict=True):
            try:
                self._confusion.update(_predicted_labels(output, len(self._class_names)), _true_labels(record))
            except ValueError as error:
                raise ValueError(f"{_image_name(record, self._num_images)}: {error}") from error
            self._num_images += 1

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Compute the scores of all images, log them, and write `semantic_metrics.json` (scores as fractions).

        Returns:
            {"sem_seg": {"mIoU", "mIoU_d2_2021", "pACC", "mACC", "fwIoU", "IoU-<class>", ...}} in percent; None in
            all processes but the first, if distributed.

        Raises:
            ValueError: not a single pixel was counted.
        """
        confusion, num_images = self._gather() if self._distributed else (self._confusion, self._num_images)
        if confusion is None:
            return None
        if not confusion.counts.any():
            raise ValueError(
                f"dataset {self._dataset_name!r}: no pixel to score in {num_images} images (all have the ignore label "
                f"{self._ignore_label}, or there are no images); check the dataset's files and its ignore label"
            )
        metrics = semantic_metrics(confusion, self._class_names)
        logger.info("%s, %d images\n%s", self._dataset_name, num_images, metrics.table())
        if self._output_dir is not None:
            report = {"dataset": self._dataset_name, "images": num_images, "ignore_label": self._ignore_label}
            with replacing(self._output_dir / "semantic_metrics.json") as temporary:
                temporary.write_text(json.dumps(report | metrics.to_dict(), indent=1, allow_nan=False) + "\n")
        return OrderedDict(sem_seg=metrics.percentages())

    def _gather(self) -> tuple[ConfusionMatrix | None, int]:
        """Sum over the processes; (None, 0) in all but the first."""
        comm.synchronize()
        gathered = comm.gather((self._confusion, self._num_images))
        if not comm.is_main_process():
            return None, 0
        # A fresh matrix, so that evaluating twice does not count the other processes twice.
        total = ConfusionMatrix(len(self._class_names), self._ignore_label)
        for confusion, _ in gathered:
            total.merge(confusion)
        return total, sum(num_images for _, num_images in gathered)


def _predicted_labels(output: Mapping[str, Any], num_classes: int) -> np.ndarray | torch.Tensor:
    """The (H, W) label map of a model's output for one image."""
    if "labels" in output:
        return output["labels"]
    if "sem_seg" not in output:
        raise ValueError(f"the model's output has neither 'labels' nor 'sem_seg', only {sorted(output)}")
    scores = torch.as_tensor(output["sem_seg"])
    if scores.ndim != 3 or len(scores) != num_classes:
        raise ValueError(
            f"'sem_seg' has shape {tuple(scores.shape)}, expected ({num_classes}, H, W): "
            "scores of exactly the dataset's classes; give other predictions as 'labels'"
        )
    best, labels = scores.max(dim=0)
    if best.isnan().any():
        raise ValueError("'sem_seg' holds NaN; the model's output cannot be scored")
    return labels


def _true_labels(record: Mapping[str, Any]) -> np.ndarray | torch.Tensor:
    """The (H, W) ground truth of a dataset record."""
    if "sem_seg_truth" in record:
        return record["sem_seg_truth"]
    if "sem_seg_file_name" not in record:
        raise ValueError(f"the input has neither 'sem_seg_truth' nor 'sem_seg_file_name', only {sorted(record)}")
    return read_labels(record["sem_seg_file_name"])


def _image_name(record: Mapping[str, Any], position: int) -> str:
    files = [f"{key} {record[key]}" for key in ("file_name", "sem_seg_file_name") if key in record]
    return ", ".join(files) or f"image number {position} of this process"


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

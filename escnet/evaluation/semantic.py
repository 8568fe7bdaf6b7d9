"""Semantic segmentation scores (mIoU and its relatives) from one streaming confusion matrix."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from escnet.data.images import read_labels
from escnet.evaluation.confusion import ConfusionMatrix, semantic_metrics
from escnet.evaluation.scored_classes import scored_classes
from escnet.safe_files import replacing

logger = logging.getLogger(__name__)


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
        scored: Sequence[int] | None = None,
        num_classes: int | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        distributed: bool = True,
    ) -> None:
        """
        Args:
            dataset_name: registered dataset whose metadata supply what is not given here, and the bits of its label
                files, `label_bits`, if they say so.
            class_names: N different names; default: the dataset's `stuff_classes`.
            ignore_label: truth id that is not scored; default: the dataset's `ignore_label`.
            scored: first id and end of the classes that mIoU and mean accuracy are the means of; default: the
                dataset's `scored_classes`, or all if it has none.
            num_classes: if given, checked against the number of names.
            output_dir: folder for `semantic_metrics.json`; None writes nothing.
            distributed: sum over all processes of the process group; otherwise each process scores what it saw.

        Raises:
            ValueError: a value is neither given nor in the metadata, names repeat, the numbers disagree, or the scored
                classes are not among the names.
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

        try:
            self._scored = scored_classes(metadata.get("scored_classes") if scored is None else scored, len(names))
        except ValueError as error:
            raise ValueError(f"dataset {dataset_name!r}: {error}") from None

        self._dataset_name = dataset_name
        self._class_names = tuple(names)
        self._ignore_label = int(ignore)
        self._label_bits = metadata.get("label_bits")
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._counts = _Counts(ConfusionMatrix(len(self._class_names), self._ignore_label))

    def process(self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]) -> None:
        """Count the images of one batch.

        Args:
            inputs: per image, `sem_seg_truth` (H, W) integer class ids, or else `sem_seg_file_name` to read them from.
            outputs: per image, `labels` (H, W) integer class ids, or else detectron2's `sem_seg` (N, H, W) scores; and
                `words_considered`, how many words competed for the pixels in the end, of a model that says it.

        Raises:
            ValueError: a record lacks both keys, sizes differ, ids are out of range, or a label file has not the bits
                of the dataset; names the image.
        """
        for record, output in zip(inputs, outputs, strict=True):
            try:
                labels = predicted_labels(output, len(self._class_names))
                self._counts.confusion.update(labels, self._true_labels(record))
            except ValueError as error:
                raise ValueError(f"{_image_name(record, self._counts.images)}: {error}") from error
            self._counts.images += 1
            if output.get("words_considered") is not None:
                self._counts.considered.append(int(output["words_considered"]))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Compute the scores of all images, log them, and write `semantic_metrics.json` (scores as fractions).

        File and log also have the mean of `words_considered`, where the model says it.

        Returns:
            {"sem_seg": {"mIoU", "mIoU_d2_2021", "pACC", "mACC", "fwIoU", "IoU-<class>", ...}} in percent; None in
            all processes but the first, if distributed.

        Raises:
            ValueError: not a single pixel was counted.
        """
        counts = self._gather() if self._distributed else self._counts
        if counts is None:
            return None
        if not counts.confusion.counts.any():
            raise ValueError(
                f"dataset {self._dataset_name!r}: no pixel to score in {counts.images} images (all have the ignore "
                f"label {self._ignore_label}, or there are no images); check the dataset's files and its ignore label"
            )
        metrics = semantic_metrics(counts.confusion, self._class_names, self._scored)
        words = {"words_considered": fmean(counts.considered)} if counts.considered else {}
        looked_at = f", {words['words_considered']:.1f} words looked at in one, on average" if words else ""
        logger.info("%s, %d images%s\n%s", self._dataset_name, counts.images, looked_at, metrics.table())
        if self._output_dir is not None:
            report = {
                "dataset": self._dataset_name,
                "images": counts.images,
                "ignore_label": self._ignore_label,
                **words,
            }
            with replacing(self._output_dir / "semantic_metrics.json") as temporary:
                temporary.write_text(json.dumps(report | metrics.to_dict(), indent=1, allow_nan=False) + "\n")
        return OrderedDict(sem_seg=metrics.percentages())

    def _true_labels(self, record: Mapping[str, Any]) -> np.ndarray | torch.Tensor:
        """The (H, W) ground truth of a dataset record."""
        if "sem_seg_truth" in record:
            return record["sem_seg_truth"]
        if "sem_seg_file_name" not in record:
            raise ValueError(f"the input has neither 'sem_seg_truth' nor 'sem_seg_file_name', only {sorted(record)}")
        return read_labels(record["sem_seg_file_name"], self._label_bits)

    def _gather(self) -> _Counts | None:
        """Sum over the processes; None in all but the first."""
        comm.synchronize()
        gathered = comm.gather(self._counts)
        if not comm.is_main_process():
            return None
        # Fresh counts, so that evaluating twice does not count the other processes twice.
        total = _Counts(ConfusionMatrix(len(self._class_names), self._ignore_label))
        for counts in gathered:
            total.confusion.merge(counts.confusion)
            total.images += counts.images
            total.considered += counts.considered
        return total


@dataclass
class _Counts:
    """What a process has seen: of each image that says it, how many words were looked at."""

    confusion: ConfusionMatrix
    images: int = 0
    considered: list[int] = field(default_factory=list)


def predicted_labels(output: Mapping[str, Any], num_classes: int) -> np.ndarray | torch.Tensor:
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


def _image_name(record: Mapping[str, Any], position: int) -> str:
    files = [f"{key} {record[key]}" for key in ("file_name", "sem_seg_file_name") if key in record]
    return ", ".join(files) or f"image number {position} of this process"

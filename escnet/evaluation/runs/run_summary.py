"""The files that a run of an evaluation leaves: scores, per-class tables, confusions, and its worst images."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from escnet.data.benchmarks import dataset_folder_name
from escnet.data.mappers import EvaluationMapper
from escnet.evaluation.confusion import ConfusionMatrix, SemanticMetrics, semantic_metrics
from escnet.evaluation.figures import prediction_and_truth, save_class_iou_plot
from escnet.evaluation.loop import evaluation_mode, predict_labels
from escnet.evaluation.oracle import OUTSIDE, asked_pairs, oracle_metrics
from escnet.evaluation.runs.image_results import ImageResult, ImageResults, ResultsError
from escnet.evaluation.runs.run_folder import METRICS, Run, write_json
from escnet.evaluation.scored_classes import ScoredClasses
from escnet.safe_files import replacing

LARGEST_CONFUSIONS = 20
WORST_IMAGES = 6


def summarise(run: Run, model: nn.Module, mapper: EvaluationMapper) -> SemanticMetrics:
    """Sum up the results of all images and write the files of the run; the metrics last, as they say that all is there.

    Args:
        run: whose images all have a result in its folder.
        model: predicts the worst images once more, for the pictures.
        mapper: reads them.

    Raises:
        ResultsError: an image is missing, or nothing can be scored.
    """
    data, names = run.data, run.data.class_names
    classes, scored = data.protocol.counting(len(names), data.scored)
    confusion = ConfusionMatrix(classes, ignore_label=-1)
    summary = _OracleSummary(scored, len(names)) if data.protocol.is_oracle else _Summary(scored)
    for result in ImageResults(run.folder).added_to(confusion):
        summary.add(result)
    _check_complete(run, confusion, summary.scores.keys())
    metrics = (oracle_metrics if data.protocol.is_oracle else semantic_metrics)(confusion, names, data.scored)
    _write_classes(run.folder / "per_class.csv", metrics)
    # The name that follows is of a class that the oracle protocol alone counts.
    _write_confusions(run.folder / "confusions.csv", confusion, [*names, OUTSIDE])
    save_class_iou_plot(run.folder / "per_class.png", metrics, f"{run.model} on {data.title}")
    # Masks that may overlap are no label map that could be drawn beside the truth.
    if not data.protocol.is_oracle:
        _draw_worst(run, model, mapper, summary.scores)
    write_json(
        run.folder / METRICS,
        {"dataset": data.dataset, "of": data.of, "words": len(data.space.vocabulary.rows)}
        | summary.to_dict()
        | metrics.to_dict(),
    )
    return metrics


class _Summary:
    """What is known of all images besides the confusion matrix.

    Attributes:
        scores: (mIoU, pixel accuracy) of each image.
    """

    def __init__(self, scored: ScoredClasses) -> None:
        self.scores: dict[str, tuple[float, float]] = {}
        self._scored = scored
        self._pixels, self._counted = 0, 0
        self._seconds: list[float] = []
        self._truths: list[str] = []
        self._considered: list[int] = []

    def add(self, result: ImageResult) -> None:
        self.scores[result.image] = (result.miou(self._scored), result.pixel_accuracy())
        self._pixels += result.height * result.width
        self._counted += int(result.entries[:, 2].sum())
        self._seconds.append(result.seconds)
        self._truths.append(f"{result.image} {result.truth}")
        if result.words_considered is not None:
            self._considered.append(result.words_considered)

    def to_dict(self) -> dict[str, Any]:
        truths = "\n".join(sorted(self._truths)).encode()
        # The mean over the images of which it is known.
        considered = {"words_considered": sum(self._considered) / len(self._considered)} if self._considered else {}
        return {
            "images": len(self._seconds),
            "ignored": 1 - self._counted / self._pixels,
            "truth_crc32": zlib.crc32(truths),
            # The median, as the first image pays for the embeddings of all words.
            "seconds_per_image": round(float(np.median(self._seconds)), 4),
        } | considered


class _OracleSummary(_Summary):
    """The same under the oracle protocol, where nothing is ignored, and the pairs of image and class are what counts.

    Args:
        scored: first id and end of the scored classes.
        classes: N of the dataset.
    """

    def __init__(self, scored: ScoredClasses, classes: int) -> None:
        super().__init__(scored)
        self._classes, self._pairs = classes, 0

    def add(self, result: ImageResult) -> None:
        super().add(result)
        self._pairs += asked_pairs(result.entries, self._classes)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"ignored": 0.0, "pairs": self._pairs}


def _check_complete(run: Run, confusion: ConfusionMatrix, images: Set[str]) -> None:
    expected = {record["image_id"] for record in run.data.records}
    if images != expected:
        raise ResultsError(
            f"{run.folder}: has results of {len(images)} images, but the dataset {len(expected)}; use --restart"
        )
    if not confusion.counts.any() and run.data.protocol.is_oracle:
        raise ResultsError(f"{run.folder}: not one of {len(expected)} images has a class that could be asked for")
    if not confusion.counts.any():
        raise ResultsError(f"{run.folder}: not a pixel of {len(expected)} images could be scored, all are ignored")


def _write_classes(path: Path, metrics: SemanticMetrics) -> None:
    columns = ("id", "name", "iou", "accuracy", "truth_pixels", "predicted_pixels")
    rows = [
        [index, *(entry[column] for column in columns[1:])] for index, entry in enumerate(metrics.to_dict()["classes"])
    ]
    _write_csv(path, columns, rows)


def _write_confusions(path: Path, confusion: ConfusionMatrix, names: Sequence[str]) -> None:
    """The pairs of different classes with the most pixels, and their share of the pixels of the true class."""
    truth_pixels = confusion.counts.sum(axis=1)
    wrong = [entry for entry in confusion.entries().tolist() if entry[0] != entry[1]]
    wrong.sort(key=lambda entry: (-entry[2], entry[:2]))
    rows = [
        [names[truth], names[predicted], pixels, f"{pixels / truth_pixels[truth]:.6f}"]
        for truth, predicted, pixels in wrong[:LARGEST_CONFUSIONS]
    ]
    _write_csv(path, ("truth", "predicted", "pixels", "share_of_truth"), rows)


def _draw_worst(
    run: Run, model: nn.Module, mapper: EvaluationMapper, scores: Mapping[str, tuple[float, float]]
) -> None:
    """Predict the images of the lowest mIoU once more, and draw them beside the truth; `scores`: mIoU, accuracy."""
    defined = [image for image, (miou, _) in scores.items() if not np.isnan(miou)]
    worst = sorted(defined, key=lambda image: (scores[image][0], image))[:WORST_IMAGES]
    by_id = {record["image_id"]: record for record in run.data.records}
    entries = []
    for number, image in enumerate(worst, start=1):
        sample = mapper(by_id[image])
        with evaluation_mode(model):
            labels = predict_labels(model, sample)
        picture = prediction_and_truth(
            sample["image"].permute(1, 2, 0).numpy(),
            labels,
            sample["sem_seg_truth"],
            run.data.class_names,
            run.data.space.ignore_label,
            scored=run.data.scored,
        )
        file = f"{number:02d}_{dataset_folder_name(image)}.jpg"
        with replacing(run.folder / "worst" / file) as temporary:
            picture.save(temporary, format="JPEG")
        miou, accuracy = scores[image]
        entries.append({"file": file, "image": image, "miou": miou, "pixel_accuracy": accuracy})
    write_json(run.folder / "worst.json", entries)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)

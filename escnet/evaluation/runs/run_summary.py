"""The files that a run of an evaluation leaves: scores, per-class tables, confusions, and its worst images."""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from escnet.data.benchmarks import dataset_folder_name
from escnet.data.images import read_image, read_labels
from escnet.evaluation.confusion import ConfusionMatrix, SemanticMetrics, semantic_metrics
from escnet.evaluation.figures import prediction_and_truth, save_class_iou_plot
from escnet.evaluation.runs.evaluation_data import Run
from escnet.evaluation.runs.image_results import ImageResult, ImageResults, ResultsError
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.safe_files import replacing
from escnet.vocabulary import Vocabulary

LARGEST_CONFUSIONS = 20
WORST_IMAGES = 6


def summarise(run: Run, model: SegmentingModel, results: ImageResults) -> SemanticMetrics:
    """Sum up the results of all images and write the files of the run; the metrics last, as they say that all is there.

    Raises:
        ResultsError: an image is missing, or nothing can be scored.
    """
    names, expected = run.data.class_names, {record["image_id"] for record in run.data.records}
    confusion = results.confusion(len(names))
    summary, scores = _Summary(), {}
    for result in results:
        summary.add(result)
        scores[result.image] = (result.miou(run.data.scored), result.pixel_accuracy())
    if scores.keys() != expected:
        raise ResultsError(
            f"{run.folder}: has results of {len(scores)} images, but the dataset {len(expected)}; use --restart"
        )
    if not confusion.counts.any():
        raise ResultsError(f"{run.folder}: not a pixel of {len(expected)} images could be scored, all are ignored")
    metrics = semantic_metrics(confusion, names, run.data.scored)
    _write_classes(run.folder / "per_class.csv", metrics)
    _write_confusions(run.folder / "confusions.csv", confusion, names)
    save_class_iou_plot(run.folder / "per_class.png", metrics, f"{run.model} on {run.data.title}")
    _draw_worst(run, model, scores)
    write_json(
        run.folder / "metrics.json",
        {"dataset": run.data.dataset, "of": run.data.of} | summary.to_dict() | metrics.to_dict(),
    )
    return metrics


class _Summary:
    """What is known of all images together besides the confusion matrix."""

    def __init__(self) -> None:
        self._pixels, self._counted = 0, 0
        self._seconds: list[float] = []
        self._truths: list[str] = []

    def add(self, result: ImageResult) -> None:
        self._pixels += result.height * result.width
        self._counted += int(result.entries[:, 2].sum())
        self._seconds.append(result.seconds)
        self._truths.append(f"{result.image} {result.truth}")

    def to_dict(self) -> dict[str, Any]:
        truths = "\n".join(sorted(self._truths)).encode()
        return {
            "images": len(self._seconds),
            "ignored": 1 - self._counted / self._pixels,
            "truth_crc32": zlib.crc32(truths),
            # The median, as the first image pays for the embeddings of all words.
            "seconds_per_image": round(float(np.median(self._seconds)), 4),
        }


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


def _draw_worst(run: Run, model: SegmentingModel, scores: dict[str, tuple[float, float]]) -> None:
    """Predict the images of the lowest mIoU once more, and draw them beside the truth; `scores`: mIoU, accuracy."""
    folder, space = run.folder / "worst", run.data.space
    defined = [image for image, (miou, _) in scores.items() if not np.isnan(miou)]
    worst = sorted(defined, key=lambda image: (scores[image][0], image))[:WORST_IMAGES]
    by_id = {record["image_id"]: record for record in run.data.records}
    entries = []
    for number, image in enumerate(worst, start=1):
        pixels, truth = read_image(by_id[image]["file_name"]), read_labels(by_id[image]["sem_seg_file_name"])
        labels = predict(model, torch.from_numpy(pixels).permute(2, 0, 1), space.vocabulary)
        file = f"{number:02d}_{dataset_folder_name(image)}.jpg"
        names, scored = run.data.class_names, run.data.scored
        picture = prediction_and_truth(pixels, labels, truth, names, space.ignore_label, scored=scored)
        with replacing(folder / file) as temporary:
            picture.save(temporary, format="JPEG")
        miou, accuracy = scores[image]
        entries.append({"file": file, "image": image, "miou": miou, "pixel_accuracy": accuracy})
    write_json(run.folder / "worst.json", entries)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def write_json(path: Path, contents: Any) -> None:
    """Write JSON, never half of it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


@torch.no_grad()
def predict(model: SegmentingModel, image: torch.Tensor, vocabulary: Vocabulary) -> np.ndarray:
    """(H, W) class ids of an image (3, H, W)."""
    height, width = image.shape[1:]
    (output,) = model([{"image": image, "height": height, "width": width, "vocabulary": vocabulary}])
    return output["labels"].cpu().numpy()

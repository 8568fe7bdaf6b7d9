"""The page of a tuning: what the model could do before and after, how it got there, and how to use it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from jinja2 import Environment, PackageLoader, StrictUndefined

from escnet.data.mappers import EvaluationMapper
from escnet.data.registration import spread
from escnet.evaluation.figures import predictions_and_truth
from escnet.evaluation.loop import evaluation_mode, predict_labels
from escnet.evaluation.report.html_report import data_uri
from escnet.evaluation.runs.run_folder import Run, read_json
from escnet.predictor import Segmenter
from escnet.safe_files import replacing
from escnet.tuning.tuning import AFTER, BEFORE, TRAINING, Tuning

PAGE, CURVE = "index.html", "training.png"
SCORES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}


def write_page(tuning: Tuning, command: str, examples: int = 6) -> Path:
    """Write the page and its pictures to the folder of the tuning.

    Args:
        tuning: what was done.
        command: that segments pictures with the tuned model.
        examples: pictures on the page.

    Returns:
        The page; it needs no other file, and asks nothing of the network.

    Raises:
        ResultsError: a file of the evaluation is missing or damaged.
    """
    folder = tuning.task.output
    pictures = draw_pictures(tuning, examples)
    draw_curve(folder / TRAINING / "metrics.json", folder / CURVE)
    environment = Environment(
        loader=PackageLoader("escnet.tuning"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    before, after = tuning.runs
    html = environment.get_template("tuning.html").render(
        task=tuning.task,
        judged=tuning.judged,
        training=len(tuning.split.training),
        held_out=len(tuning.split.validation),
        iterations=tuning.iterations,
        seconds=tuning.seconds,
        model=tuning.cfg.MODEL.META_ARCHITECTURE,
        weights=tuning.cfg.MODEL.WEIGHTS,
        scores=_scores(before, after),
        classes=_classes(before, after),
        curve=data_uri(folder / CURVE),
        pictures=[data_uri(picture) for picture in pictures],
        command=command,
    )
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return folder / PAGE


def draw_pictures(tuning: Tuning, count: int) -> list[Path]:
    """Some of the judged images, evenly spread: photograph, prediction before and after, truth."""
    data = tuning.judged
    mapper = EvaluationMapper({record["dataset"]: data.space for record in data.records}, with_truth=True)
    samples = [mapper(record) for record in spread(data.records, count)]
    labels = {}
    # One model at a time is in memory.
    for name, cfg in ((BEFORE, tuning.untuned), (AFTER, tuning.cfg)):
        model = Segmenter.from_config(cfg).model
        with evaluation_mode(model):
            labels[name] = [predict_labels(model, sample) for sample in samples]
    paths = []
    for number, sample in enumerate(samples, start=1):
        sheet = predictions_and_truth(
            sample["image"].permute(1, 2, 0).numpy(),
            {name: labels[name][number - 1] for name in labels},
            sample["sem_seg_truth"],
            data.class_names,
            data.space.ignore_label,
            scored=data.scored,
        )
        paths.append(tuning.task.output / "pictures" / f"{number:02d}.jpg")
        with replacing(paths[-1]) as temporary:
            sheet.save(temporary, format="JPEG", quality=88)
    return paths


def draw_curve(metrics: Path, path: Path) -> None:
    """Loss and mIoU of what is held out, by iteration, from the metrics.json of the training."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
    _line(axes, lines, "total_loss", "#9a9aa6", "loss")
    axes.set(xlabel="iteration", ylabel="loss")
    axes.grid(alpha=0.3)
    right = axes.twinx()
    _line(right, lines, "validation", "#3572b0", "mIoU of the held-out images, %", marker="o")
    right.set_ylabel("held-out mIoU, %", color="#3572b0")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    plt.close(figure)
    with replacing(path) as temporary:
        temporary.write_bytes(stream.getvalue())


def _line(axes: plt.Axes, lines: Sequence[Mapping[str, Any]], key: str, color: str, label: str, **style: str) -> None:
    points = [(line["iteration"], line[key]) for line in lines if key in line]
    if points:
        axes.plot(*zip(*points, strict=True), color=color, label=label, **style)


def _scores(before: Run, after: Run) -> list[tuple[str, float, float]]:
    """Name, percent before and after of each score."""
    first, second = (read_json(run.folder / "metrics.json") for run in (before, after))
    return [(title, 100 * first[key], 100 * second[key]) for key, title in SCORES.items()]


def _classes(before: Run, after: Run) -> list[dict[str, Any]]:
    """Name, percent of IoU before and after, and pixels of each class of which the judged images have pixels."""
    tables = []
    for run in (before, after):
        with (run.folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    return [
        {
            "name": first["name"],
            "pixels": int(first["truth_pixels"]),
            "before": 100 * float(first["iou"]),
            "after": 100 * float(second["iou"]),
        }
        for first, second in zip(*tables, strict=True)
        if int(first["truth_pixels"])
    ]

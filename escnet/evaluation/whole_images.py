"""Evaluation of a model on whole images: classes and captions, with the files that it leaves in a folder."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from escnet.data.captions import KARPATHY_SPLIT, read_captions
from escnet.data.image_folders import ImageFolder, NamedClasses, name_classes, read_image_folder
from escnet.evaluation.answering_models import load_answering_model
from escnet.evaluation.embeddings import EmbeddingOptions, EmbeddingStore
from escnet.evaluation.retrieval import RetrievalScores, evaluate_retrieval
from escnet.evaluation.runs.conditions import Conditions, model_identity, versions
from escnet.evaluation.runs.run_folder import read_conditions, read_json, require_same_conditions, write_json
from escnet.evaluation.zero_shot_classification import ClassificationScores, evaluate_classification
from escnet.meta_arch.interfaces import ClassifyingModel
from escnet.safe_files import replacing

# Stands for the names of the folders themselves.
FOLDERS = "folders"
_EMBEDDINGS, _RESULTS, _CLASSES = "embeddings.safetensors", "results.json", "per_class.csv"


@dataclass(frozen=True)
class WholeImageTask:
    """What `evaluate_whole_images` is to do.

    Attributes:
        images: folder of the images.
        output: folder of the results.
        classes: "folders", "imagenet" or a file, as for `name_classes`; None for no classification.
        captions: a file of captions; None for no retrieval.
        split: of Karpathy's file of captions.
        captions_per_image: the first so many of each image; 0 for all.
        templates: around the words of classes.
        system: None for the configured model, or the parent to take instead.
        weights: of the model; "" for those of the configuration.
        options: how images are embedded.
        restart: delete the embeddings and results that are in `output`.
    """

    images: Path
    output: Path
    classes: str | None = FOLDERS
    captions: Path | None = None
    split: str = KARPATHY_SPLIT
    captions_per_image: int = 0
    templates: str = "imagenet"
    system: str | None = None
    weights: str = ""
    options: EmbeddingOptions = field(default_factory=EmbeddingOptions)
    restart: bool = False


def evaluate_whole_images(cfg: CfgNode, task: WholeImageTask) -> str:
    """Evaluate a model, and write embeddings.safetensors, results.json and per_class.csv.

    The embeddings serve later calls with the same folder of results, whatever their classes or captions.

    Args:
        cfg: the configuration.
        task: on what, and where to.

    Returns:
        The table for the terminal.

    Raises:
        DatasetError, VocabularyError: images, classes or captions are not as expected; told before a model is built.
        ValueError: the model cannot name images.
        WeightsError: weights that are missing or do not fit.
        ResultsError: the folder has embeddings of other weights, or read in another way.
    """
    folder = classes = captions = None
    if task.classes is not None:
        folder = read_image_folder(task.images)
        classes = name_classes(folder, None if task.classes == FOLDERS else task.classes)
    if task.captions is not None:
        captions = read_captions(task.captions, task.images, task.split, task.captions_per_image)
    model = load_answering_model(cfg, ClassifyingModel, task.system, task.weights)
    conditions = _conditions(cfg, model, task)
    store = _open(task, conditions)
    sections: dict[str, Any] = {}
    rows: list[list[str]] = []
    if folder is not None and classes is not None:
        scores = evaluate_classification(model, folder, classes, task.templates, task.options, store)
        sections["classification"] = _classification_section(task, folder, classes, scores)
        rows += _classification_rows(scores, classes)
        _write_classes(task.output / _CLASSES, classes, folder, scores)
    if captions is not None:
        found = evaluate_retrieval(model, task.images, captions, task.options, store)
        sections["retrieval"] = {"captions file": str(task.captions), "split": task.split} | found.to_dict()
        rows += _retrieval_rows(found)
    _write_results(task.output / _RESULTS, conditions, sections)
    return tabulate(rows, headers=["score", "", "of"], colalign=("left", "right", "left"), disable_numparse=True)


def _conditions(cfg: CfgNode, model: ClassifyingModel, task: WholeImageTask) -> Conditions:
    """What an embedding depends on."""
    checkpoint = "" if task.system else task.weights or cfg.MODEL.WEIGHTS
    return {
        "model": model_identity(cfg, model, checkpoint),
        "crop": task.options.crop,
        "device": next(model.parameters()).device.type,
        "versions": versions(),
    }


def _open(task: WholeImageTask, conditions: Conditions) -> EmbeddingStore:
    if task.restart:
        for name in (_EMBEDDINGS, _RESULTS, _CLASSES):
            (task.output / name).unlink(missing_ok=True)
    results = task.output / _RESULTS
    if results.exists():
        require_same_conditions(results, read_conditions(results), conditions)
    return EmbeddingStore(task.output / _EMBEDDINGS, conditions)


def _write_results(path: Path, conditions: Conditions, sections: dict[str, Any]) -> None:
    """Write the sections that were made now; one of the other kind stands, made under the same conditions."""
    known = read_json(path) if path.exists() else {}
    kept = {name: known[name] for name in ("classification", "retrieval") if name in known}
    write_json(path, {"conditions": conditions} | kept | sections)


def _classification_section(
    task: WholeImageTask, folder: ImageFolder, classes: NamedClasses, scores: ClassificationScores
) -> dict[str, Any]:
    shared = sum(times for times in Counter(classes.words).values() if times > 1)
    return {
        "images folder": str(folder.root),
        "class names": task.classes,
        "classes": len(classes.words),
        "classes that have images": len(set(classes.of_folder)),
        "classes that share their words with another": shared,
        "templates": task.templates,
    } | scores.to_dict()


def _classification_rows(scores: ClassificationScores, classes: NamedClasses) -> list[list[str]]:
    of = f"{scores.images} images, {len(classes.words)} classes{_left_out(scores.unreadable)}"
    shares = {"top-1": scores.top1, "top-5": scores.top5, "mean of classes": scores.mean_class}
    return [[name, f"{100 * share:.2f}", of] for name, share in shares.items()]


def _retrieval_rows(scores: RetrievalScores) -> list[list[str]]:
    of = f"{scores.images} images, {scores.captions} captions{_left_out(scores.unreadable)}"
    directions = {"image to text": scores.recalls.image_to_text, "text to image": scores.recalls.text_to_image}
    return [
        [f"{direction} R@{k}", f"{100 * share:.2f}", of]
        for direction, recalls in directions.items()
        for k, share in recalls.items()
    ]


def _left_out(unreadable: int) -> str:
    return f"; {unreadable} that cannot be read left out" if unreadable else ""


def _write_classes(path: Path, classes: NamedClasses, folder: ImageFolder, scores: ClassificationScores) -> None:
    folders = {row: name for row, name in zip(classes.of_folder, folder.folders, strict=True)}
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "folder", "words", "images", "top1", "top5"])
        for row, accuracy in enumerate(scores.classes):
            writer.writerow([row, folders.get(row, ""), *accuracy])

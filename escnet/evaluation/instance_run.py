"""Evaluation of masks from boxes, with the files that it leaves in a folder, and goes on from."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.config import CfgNode
from tabulate import tabulate

from escnet.data.coco_instances import BoxPrompt, InstanceData, read_detections, read_instances
from escnet.evaluation.answering_models import load_answering_model
from escnet.evaluation.instance import BoxOptions, InstanceScores, evaluate_instances
from escnet.evaluation.instance_results import InstanceResults
from escnet.evaluation.mask_ap import MaskAp, choose_library
from escnet.evaluation.runs.conditions import Conditions, model_identity, versions
from escnet.evaluation.runs.run_folder import read_conditions, require_same_conditions, write_json
from escnet.meta_arch.interfaces import PromptableModel
from escnet.pretrained.files import file_sha256
from escnet.safe_files import replacing

# Stands for the boxes of the annotated objects.
ANNOTATED = "gt"
_RUN, _MASKS, _RESULTS = "run.json", "images.jsonl", "results.json"
_COCO, _CLASSES = "masks.json", "per_class.csv"


@dataclass(frozen=True)
class InstanceTask:
    """What `run_instances` is to do.

    Attributes:
        images: folder of the images.
        annotations: file of the objects, in COCO's or LVIS's format.
        output: folder of the results.
        boxes: "gt", or a file of a detector's boxes in COCO's format of results.
        system: None for the configured model, or the parent to take instead.
        weights: of the model; "" for those of the configuration.
        options: how boxes are asked for.
        limit: only the first so many images.
        library: that counts average precision; None: as `choose_library` says.
        restart: delete the results that are in `output`.
    """

    images: Path
    annotations: Path
    output: Path
    boxes: str = ANNOTATED
    system: str | None = None
    weights: str = ""
    options: BoxOptions = field(default_factory=BoxOptions)
    limit: int | None = None
    library: str | None = None
    restart: bool = False


def run_instances(cfg: CfgNode, task: InstanceTask) -> str:
    """Evaluate a model, and write run.json, images.jsonl, masks.json, results.json and per_class.csv.

    Args:
        cfg: the configuration.
        task: on what, and where to.

    Returns:
        The table for the terminal.

    Raises:
        DatasetError: objects, boxes or images are not as expected; of objects and boxes told before a model is built.
        ValueError: the model cannot draw masks from boxes, or a library is not there.
        WeightsError: weights that are missing or do not fit.
        ResultsError: the folder has results that were made under other conditions, or are damaged.
        OSError: results could not be written; those of earlier images stand.
    """
    choose_library(task.library)  # refuses before anything is read
    data = read_instances(task.annotations, task.limit)
    boxes = data.annotated_boxes() if task.boxes == ANNOTATED else read_detections(task.boxes, data)
    model = load_answering_model(cfg, PromptableModel, task.system, task.weights)
    conditions = _conditions(cfg, model, task, data)
    results = _open(task, conditions)
    scores = evaluate_instances(model, task.images, data, boxes, task.options, results, task.library)
    _write_masks(task.output / _COCO, results)
    _write_classes(task.output / _CLASSES, scores.ap, boxes)
    # Last, as it says that all is there.
    write_json(task.output / _RESULTS, {"conditions": conditions, "scores": scores.to_dict()})
    return _table(scores)


def _conditions(cfg: CfgNode, model: PromptableModel, task: InstanceTask, data: InstanceData) -> Conditions:
    """What a mask depends on."""
    checkpoint = "" if task.system else task.weights or cfg.MODEL.WEIGHTS
    detector = "" if task.boxes == ANNOTATED else file_sha256(Path(task.boxes).expanduser())
    return {
        "model": model_identity(cfg, model, checkpoint),
        "annotations sha256": file_sha256(data.path),
        "images": len(data.images),
        "boxes": ANNOTATED if task.boxes == ANNOTATED else Path(task.boxes).name,
        "boxes sha256": detector,
        "padded": task.options.padded,
        "score": task.options.score,
        "device": next(model.parameters()).device.type,
        "versions": versions(),
    }


def _open(task: InstanceTask, conditions: Conditions) -> InstanceResults:
    """Begin, or go on with what is in the folder; conditions under which nothing was found bind nobody."""
    run = task.output / _RUN
    if task.restart:
        for name in (_RUN, _MASKS, _RESULTS, _COCO, _CLASSES):
            (task.output / name).unlink(missing_ok=True)
    results = InstanceResults(task.output / _MASKS)
    if results.is_empty() and not (task.output / _RESULTS).exists():
        write_json(run, {"conditions": conditions})
    else:
        require_same_conditions(task.output, read_conditions(run), conditions)
    return results


def _write_masks(path: Path, results: InstanceResults) -> None:
    """All masks in COCO's format of results, for other programs."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.write("[")
        for number, mask in enumerate(results.masks()):
            stream.write((",\n" if number else "\n") + json.dumps(mask.to_coco(), separators=(",", ":")))
        stream.write("\n]\n")


def _write_classes(path: Path, ap: MaskAp, boxes: Mapping[int, Sequence[BoxPrompt]]) -> None:
    counts: dict[int, int] = {}
    for some in boxes.values():
        for prompt in some:
            counts[prompt.category] = counts.get(prompt.category, 0) + 1
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "name", "boxes", "ap"])
        writer.writerows([row.id, row.name, counts.get(row.id, 0), row.ap] for row in ap.classes)


def _table(scores: InstanceScores) -> str:
    shown = {f"mask {name}": value for name, value in scores.ap.scores.items()}
    if scores.mean_iou is not None:
        shown["mean IoU"] = scores.mean_iou
    rows = [[name, "-" if value is None else f"{100 * value:.2f}"] for name, value in shown.items()]
    left_out = f", {len(scores.unreadable)} that cannot be read" if scores.unreadable else ""
    return (
        tabulate(rows, headers=["score", ""], colalign=("left", "right"), disable_numparse=True)
        + f"\n\n{scores.boxes} masks in {scores.images} images{left_out}; "
        f"{scores.ap.protocol}'s definition, counted by {scores.ap.library}"
    )

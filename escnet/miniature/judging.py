"""What a small model keeps of CLIP and of SAM: the words of pictures, and masks from boxes, at several sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from escnet.data.coco_instances import read_instances
from escnet.data.errors import DatasetError
from escnet.data.examination_folder import CLASSES, OBJECTS, OBJECTS_FILE, WORDS
from escnet.data.image_folders import name_classes, read_image_folder
from escnet.evaluation.embeddings import EmbeddingOptions
from escnet.evaluation.instance import evaluate_instances
from escnet.evaluation.wise_ft import input_side
from escnet.evaluation.zero_shot_classification import evaluate_classification
from escnet.meta_arch.clip import ClassifyingClip
from escnet.meta_arch.interfaces import ClassifyingModel, PromptableModel, SegmentingModel

SIZES = (48, 64, 80, 96, 112, 128)


def check_examination(root: Path) -> None:
    """See that there is an examination, before a model is trained for it.

    Raises:
        DatasetError: there is none.
    """
    missing = [name for name in (WORDS, OBJECTS, OBJECTS_FILE) if not (root / name).exists()]
    if missing:
        raise DatasetError(
            f"{root.absolute()}: has no {missing[0]} (the data root is DETECTRON2_DATASETS); "
            "datasets/prepare_mojireplay.py draws the examinations of MojiScenes, datasets/prepare_regions.py makes "
            "those of photographs"
        )


@torch.no_grad()
def judge(model: nn.Module, root: Path, sizes: Sequence[int], limit: int | None = None) -> dict[str, Any]:
    """Zero-shot accuracy and mask AP from exact boxes, in percent, at each size.

    Args:
        model: a ClassifyingModel, a PromptableModel or both, on its device.
        root: of an examination (`examination_folder`). The classes that compete are those of its list; of a folder
            without one, the names of the folders of pictures.
        sizes: sides to which pictures are brought; a SAM has its own alone.
        limit: only so many pictures of objects.

    Returns:
        {"accuracy": {size: percent}, "ap": {size: percent}, "iou": {size: percent}}, of what the model can do.

    Raises:
        DatasetError: there is no such examination, or it is not as expected.
    """
    check_examination(root)
    scores: dict[str, dict[int, float]] = {}
    if isinstance(model, ClassifyingModel):
        folder = read_image_folder(root / WORDS)
        classes = name_classes(folder, root / CLASSES if (root / CLASSES).is_file() else None)
        for size in sizes:
            with at_size(model, size):
                found = evaluate_classification(model, folder, classes, "single", EmbeddingOptions())
            scores.setdefault("accuracy", {})[size] = 100 * found.top1
    if isinstance(model, PromptableModel):
        data = read_instances(root / OBJECTS_FILE, limit)
        for size in sizes if isinstance(model, ClassifyingModel) else (model.input_size,):
            with at_size(model, size):
                drawn = evaluate_instances(model, root / OBJECTS, data)
            scores.setdefault("ap", {})[size] = 100 * drawn.ap.scores["AP"]
            scores.setdefault("iou", {})[size] = 100 * drawn.mean_iou
    return scores


@contextmanager
def at_size(model: nn.Module, size: int) -> Iterator[None]:
    """Meanwhile, a model brings pictures to this side; a SAM has its own alone."""
    if isinstance(model, SegmentingModel):
        with input_side(model, size):
            yield
    elif isinstance(model, ClassifyingClip):
        before, model.image_size = model.image_size, (size, size)
        try:
            yield
        finally:
            model.image_size = before
    else:
        yield

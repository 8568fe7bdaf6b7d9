"""The score by which a training chooses among its weights: mIoU on images held out of its own datasets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from escnet.data.errors import DatasetError
from escnet.data.label_spaces import label_spaces
from escnet.data.mappers import EvaluationMapper
from escnet.data.registration import dataset_metadata
from escnet.evaluation.confusion import ConfusionMatrix, semantic_metrics
from escnet.evaluation.loop import Prediction, pass_images

Record = dict[str, Any]
Sample = dict[str, Any]


def held_out_miou(cfg: CfgNode, model: nn.Module, records: Sequence[Record]) -> float:
    """The mIoU of a model on held-out images of DATASETS.TRAIN, in percent; of several datasets the mean of theirs.

    The images are whole, as in an evaluation, and the model looks for the words that it is trained with: INPUT's
    templates and class names, not TEST's. The classes of a dataset that are on none of its held-out images do not
    count, as in any mIoU. Of several processes each passes its share of the images, and all get the same score.

    Args:
        cfg: names the datasets, and how they are read.
        model: on its device, in whatever mode, in which it is left.
        records: of the held-out images, at least one, each with its `dataset`.

    Raises:
        DatasetError: the images have no pixel to score.
        ImageError, OSError: a file cannot be read.
        ValueError: a label map that does not fit its image, or holds unknown ids.
    """
    spaces = label_spaces(cfg.DATASETS.TRAIN, cfg.INPUT.TEMPLATES, cfg.INPUT.CLASS_NAMES)
    mapper = EvaluationMapper(spaces, with_truth=True)
    datasets = sorted({record["dataset"] for record in records})
    scores = []
    for name in datasets:
        confusion = ConfusionMatrix(spaces[name].vocabulary.num_classes, spaces[name].ignore_label)
        # Of each dataset by itself: two may have other labels of the same photographs.
        own = [record for record in records if record["dataset"] == name]
        title = f"validation on {name}"
        pass_images(model, own, mapper, partial(_count, confusion), title=title, num_workers=cfg.DATALOADER.NUM_WORKERS)
        scores.append(_miou(name, confusion))
    finite = [score for score in scores if math.isfinite(score)]
    if not finite:
        raise DatasetError(
            f"the {len(records)} held-out images of {', '.join(datasets)} have no pixel to score; choose others with "
            "LABELLED.SEED, more with LABELLED.VALIDATION, or none with LABELLED.VALIDATION 0"
        )
    return 100 * fmean(finite)


def _count(confusion: ConfusionMatrix, sample: Sample, prediction: Prediction, _: float) -> None:
    try:
        confusion.update(prediction.labels, sample["sem_seg_truth"])
    except ValueError as error:
        raise ValueError(f"{sample['file_name']}, {sample['sem_seg_file_name']}: {error}") from error


def _miou(dataset: str, counted: ConfusionMatrix) -> float:
    """Of what all processes have counted, as a fraction; NaN where none of the scored classes was there."""
    total = ConfusionMatrix(counted.num_classes, counted.ignore_label)
    for confusion in comm.all_gather(counted):
        total.merge(confusion)
    metadata = dataset_metadata(dataset)
    return semantic_metrics(total, metadata.stuff_classes, metadata.get("scored_classes")).miou

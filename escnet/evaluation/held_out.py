"""The score by which a training chooses among its weights: mIoU on images held out of its own datasets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from escnet.data.errors import DatasetError
from escnet.data.label_spaces import label_spaces
from escnet.evaluation.counting import count_images
from escnet.evaluation.protocols import ORDINARY, Protocol

Record = dict[str, Any]


def held_out_miou(cfg: CfgNode, model: nn.Module, records: Sequence[Record], protocol: Protocol = ORDINARY) -> float:
    """The mIoU of a model on held-out images of DATASETS.TRAIN, in percent; of several datasets the mean of theirs.

    The images are whole, as in an evaluation, and the model looks for the words that it is trained with: INPUT's
    templates and class names, not TEST's. The classes of a dataset that are on none of its held-out images do not
    count, as in any mIoU. Of several processes each passes its share of the images, and all get the same score.

    Args:
        cfg: names the datasets, and how they are read.
        model: on its device, in whatever mode, in which it is left.
        records: of the held-out images, at least one, each with its `dataset`.
        protocol: what the model is asked of them.

    Raises:
        DatasetError: the images have no pixel to score.
        ImageError, OSError: a file cannot be read.
        ValueError: a label map that does not fit its image, or holds unknown ids.
    """
    spaces = label_spaces(cfg.DATASETS.TRAIN, cfg.INPUT.TEMPLATES, cfg.INPUT.CLASS_NAMES)
    datasets = sorted({record["dataset"] for record in records})
    scores = []
    for name in datasets:
        # Of each dataset by itself: two may have other labels of the same photographs.
        own = [record for record in records if record["dataset"] == name]
        title = f"validation on {name}"
        metrics = count_images(model, own, spaces[name], protocol, title, cfg.DATALOADER.NUM_WORKERS)
        scores.append(metrics.miou)
    finite = [score for score in scores if math.isfinite(score)]
    if not finite:
        raise DatasetError(
            f"the {len(records)} held-out images of {', '.join(datasets)} have no pixel to score; choose others with "
            "LABELLED.SEED, more with LABELLED.VALIDATION, or none with LABELLED.VALIDATION 0"
        )
    return 100 * fmean(finite)

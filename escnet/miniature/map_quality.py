"""Do the correlation maps become denser from block to block, as ESC-Net shows (sec. 4)? Measured against the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from sklearn.metrics import average_precision_score

from escnet.config import load_config
from escnet.data.images import read_image
from escnet.data.label_spaces import read_training_labels
from escnet.evaluation.runs.evaluation_data import EvaluationData
from escnet.predictor import Segmenter


@dataclass(frozen=True)
class MapQuality:
    """Of the correlation maps at one place of the network, as means over the objects' classes of all pictures.

    The maps are judged as the pseudo prompts see them, as probabilities: softmax over the classes of each cell.

    Attributes:
        average_precision: of the cells ordered by the class's probability; 1 where each cell of the object comes first.
        covered: share of the class's cells where it is the most probable class.
        precise: share of the cells where it is the most probable class that are the class's; of classes with any.
        probability: of the class, in its own cells.
        classes: over how many this is the mean; a class counts once for each picture.
    """

    average_precision: float
    covered: float
    precise: float
    probability: float
    classes: int


def measure_maps(cfg: CfgNode, dataset: str) -> list[MapQuality]:
    """The quality of CLIP's maps, then of those after each block, where all classes are looked at.

    Args:
        cfg: of a system that keeps its maps, with weights.
        dataset: its scored classes are judged; a cell is a class's if more than half of it is.

    Raises:
        ValueError: the pictures show none of the classes.
    """
    cfg = load_config(cfg, ["MODEL.ESC.MAX_CLASSES", 0, "MODEL.ESC.KEEP", 0])
    segmenter, data = Segmenter.from_config(cfg), EvaluationData.load(dataset, cfg)
    first, end = data.scored or (0, len(data.class_names))
    stages: list[list[tuple[float, ...]]] = []
    scale = float(segmenter.model.logit_scale)
    for record in data.records:
        truth = read_training_labels(record["sem_seg_file_name"], data.space)
        maps = segmenter(read_image(record["file_name"]), data.space.vocabulary).correlations
        stages = stages or [[] for _ in maps]
        for quality, correlation in zip(stages, maps, strict=True):
            values = (correlation[0] * scale).softmax(dim=0).numpy()
            cells = _majority(truth, values.shape[1:])
            quality += [_judge(values, cells == k, k) for k in range(first, end) if (cells == k).any()]
    if not any(stages):
        raise ValueError(f"{dataset}: none of the classes that are judged is in its pictures")
    return [_mean(quality) for quality in stages]


def _majority(truth: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """The class that has more than half of each cell, -1 for none: (H, W) -> (h, w)."""
    height, width = grid
    cells = truth.reshape(height, truth.shape[0] // height, width, truth.shape[1] // width).swapaxes(1, 2)
    cells = cells.reshape(height, width, -1)
    middle = np.sort(cells, axis=-1)[..., cells.shape[-1] // 2]
    return np.where((cells == middle[..., None]).mean(axis=-1) > 0.5, middle, -1)


def _judge(values: np.ndarray, is_class: np.ndarray, index: int) -> tuple[float, ...]:
    """The figures of `MapQuality`, in its order, for one class of (N, h, w) probabilities."""
    is_highest = values.argmax(axis=0) == index
    hits = (is_highest & is_class).sum()
    return (
        average_precision_score(is_class.ravel(), values[index].ravel()),
        hits / is_class.sum(),
        hits / is_highest.sum() if is_highest.any() else np.nan,
        values[index][is_class].mean(),
    )


def _mean(quality: list[tuple[float, ...]]) -> MapQuality:
    return MapQuality(*(float(column) for column in np.nanmean(quality, axis=0)), classes=len(quality))

"""Masks of a segmentation as a task of Label Studio with predictions: polygons in percent, or brush strokes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from escnet.annotations.labelled_image import LabelledImage
from escnet.annotations.yolo import bridged
from escnet.data.label_studio_brush import encode_brush

# Who predicted, in Label Studio's list of predictions.
MODEL_VERSION = "escnet"
# What the tags of its labelling configuration are called in Label Studio's own templates.
FROM_NAME, TO_NAME = "label", "image"


class _Region(NamedTuple):
    """What is marked: the class, the value without it, and the score with the pixels that it was taken over."""

    name: str
    value: dict[str, Any]
    score: float
    pixels: int


def to_label_studio(
    image: LabelledImage, picture: str | None = None, brush: bool = False, background: bool = False
) -> dict[str, Any]:
    """A task with a prediction of all masks; see `SegmentationResult.to_label_studio`."""
    regions = list(_brush_strokes(image, background) if brush else _polygons(image, background))
    kind = "brushlabels" if brush else "polygonlabels"
    height, width = image.labels.shape
    result = [
        {
            "id": f"region{number}",
            "type": kind,
            "from_name": FROM_NAME,
            "to_name": TO_NAME,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {**region.value, kind: [region.name]},
            "score": region.score,
        }
        for number, region in enumerate(regions, start=1)
    ]
    score = sum(region.score * region.pixels for region in regions) / max(1, sum(region.pixels for region in regions))
    return {
        "data": {TO_NAME: picture or ""},
        "predictions": [{"model_version": MODEL_VERSION, "score": score, "result": result}],
    }


def _polygons(image: LabelledImage, background: bool) -> Iterator[_Region]:
    height, width = image.labels.shape
    for part in image.outlines(background):
        percent = bridged(part.outline) * (100 / np.array([width, height]))
        yield _Region(part.name, {"points": percent.tolist(), "closed": True}, part.score, part.pixels)


def _brush_strokes(image: LabelledImage, background: bool) -> Iterator[_Region]:
    for mask in image.class_masks(background):
        value = {"format": "rle", "rle": encode_brush(mask.mask)}
        yield _Region(mask.name, value, mask.score, int(mask.mask.sum()))

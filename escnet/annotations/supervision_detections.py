"""Masks of a segmentation as Detections of supervision, which draws, tracks, counts and evaluates them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escnet.annotations.labelled_image import LabelledImage
from escnet.annotations.outlines import extent

if TYPE_CHECKING:
    from supervision import Detections


def to_supervision(image: LabelledImage, objects: bool = False, background: bool = False) -> Detections:
    """The masks as Detections; see `SegmentationResult.to_supervision`."""
    try:
        from supervision import Detections
        from supervision.config import CLASS_NAME_DATA_FIELD
    except ImportError as error:
        raise ImportError(f"to_supervision needs supervision ({error}): pip install 'escnet[supervision]'") from error

    masks = list(image.object_masks(background) if objects else image.class_masks(background))
    if not masks:
        return Detections.empty()
    boxes = []
    for mask in masks:
        top, bottom, left, right = extent(mask.mask)
        boxes.append((left, top, right, bottom))
    return Detections(
        xyxy=np.array(boxes, np.float32),
        mask=np.stack([mask.mask for mask in masks]),
        confidence=np.array([mask.score for mask in masks], np.float32),
        class_id=np.array([mask.class_id for mask in masks], int),
        data={CLASS_NAME_DATA_FIELD: np.array([mask.name for mask in masks])},
    )

"""An annotated image painted as a label map: which region is seen where several lie, and what lies outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_masks

from escnet.data.preparation.own_annotations.annotated import UNLABELLED, AnnotatedImage, Region
from escnet.data.preparation.own_annotations.shapes import Box, CocoRuns, MaskFile, Size

# Tools round the ends of regions that touch the border of the picture.
_TOLERANCE = 1.0


class Painted(NamedTuple):
    """A label map, and what was noticed on the way.

    Attributes:
        labels: (H,W) int32 class ids, `UNLABELLED` where there is no region.
        lost: regions without a pixel in the picture.
        cut: regions that reach beyond it by more than a pixel.
        overlapped: times that a pixel of one class was painted over by another.
    """

    labels: np.ndarray
    lost: int = 0
    cut: int = 0
    overlapped: int = 0


def paint(image: AnnotatedImage, size: Size, ids: Mapping[str, int], smaller_on_top: bool) -> Painted:
    """Paint the regions of an image, lower orders first, and of one order the larger or the earlier ones first.

    Args:
        image: the annotations.
        size: (height, width) to paint.
        ids: of the classes by name.
        smaller_on_top: of one order, smaller regions lie on top; if not, later ones.

    Raises:
        ValueError: a region cannot be drawn.
    """
    if image.picture is not None:
        return Painted(image.picture.labels())
    labels = np.full(size, UNLABELLED, dtype=np.int32)
    lost = cut = overlapped = 0
    for region in _from_below(image.regions, size, smaller_on_top):
        mask, box = region.shape.mask(size), region.shape.box()
        here = labels[mask]
        # A black mask says that a class is not in the picture.
        lost += not here.size and not isinstance(region.shape, MaskFile)
        cut += bool(here.size) and box is not None and _reaches_beyond(box, size)
        overlapped += int(np.count_nonzero((here != UNLABELLED) & (here != ids[region.label])))
        labels[mask] = ids[region.label]
    return Painted(labels, lost, cut, overlapped)


def _from_below(regions: Sequence[Region], size: Size, smaller_on_top: bool) -> list[Region]:
    if smaller_on_top:
        regions = sorted(regions, key=lambda region: -_area(region, size))
    return sorted(regions, key=lambda region: region.order)


def _area(region: Region, size: Size) -> int:
    if isinstance(region.shape, CocoRuns):
        return int(coco_masks.area({"size": list(size), "counts": region.shape.counts.encode("ascii")}))
    return int(np.count_nonzero(region.shape.mask(size)))


def _reaches_beyond(box: Box, size: Size) -> bool:
    x1, y1, x2, y2 = box
    return min(x1, y1) < -_TOLERANCE or x2 > size[1] + _TOLERANCE or y2 > size[0] + _TOLERANCE

"""Masks of a segmentation as lines of YOLO's labels: a class and a polygon whose holes are bridged to its outline."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from escnet.annotations.labelled_image import LabelledImage
from escnet.annotations.outlines import Outline

# Enough for pictures of a hundred thousand pixels a side.
_DECIMALS = 8


def to_yolo(image: LabelledImage, background: bool = False) -> str:
    """A line for each connected part: the index of its class, then x y of its corners as shares of the sides."""
    height, width = image.labels.shape
    lines = []
    for part in image.outlines(background):
        shares = bridged(part.outline) / (width, height)
        lines.append(f"{part.class_id} {' '.join(map(_shortest, shares.ravel().tolist()))}\n")
    return "".join(lines)


def bridged(outline: Outline) -> np.ndarray:
    """An outline (P, 2) as one ring, for formats without holes.

    From the corner of the exterior that is nearest to a hole, the ring goes to the hole, around it, and back the same
    way. The way has no width: the ring encloses the same area, and the same middles of pixels, as the outline, by the
    rule of even and odd crossings and by that of winding numbers.
    """
    if not outline.holes:
        return outline.exterior
    nearest = cKDTree(outline.exterior)
    detours: dict[int, list[np.ndarray]] = {}
    for hole in outline.holes:
        distances, corners = nearest.query(hole)
        first = int(np.argmin(distances))
        around = np.roll(hole, -first, axis=0)
        corner = int(corners[first])
        detours.setdefault(corner, []).append(np.concatenate([around, around[:1], outline.exterior[corner, None]]))
    pieces = []
    for corner in range(len(outline.exterior)):
        pieces += [outline.exterior[corner, None], *detours.get(corner, ())]
    return np.concatenate(pieces)


def _shortest(share: float) -> str:
    return f"{share:.{_DECIMALS}f}".rstrip("0").rstrip(".")

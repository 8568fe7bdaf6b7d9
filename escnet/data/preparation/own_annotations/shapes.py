"""Shapes of annotated regions, as masks: outlines, run lengths of three tools, and pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from pycocotools import mask as coco_masks

from escnet.data.images import ImageError, image_mode, image_size, read_labels, read_mask
from escnet.data.label_studio_brush import decode_brush
from escnet.data.run_lengths import decode_runs, parse_run_lengths

Size = tuple[int, int]
# (x1, y1, x2, y2) in pixels, whose left and upper edge is at 0.
Box = tuple[float, float, float, float]
Point = tuple[float, float]
_LEAST_POINTS = 3
# Sides of a picture.
_FARTHEST = 10
_ONE_CHANNEL = ("L", "P", "I", "I;16", "I;16B")


class Shape(Protocol):
    """What a region covers."""

    def mask(self, size: Size) -> np.ndarray:
        """The (H,W) bool mask in a picture of this (height, width).

        Raises:
            ValueError: it cannot be drawn.
        """

    def box(self) -> Box | None:
        """Its extent as annotated; None where it cannot reach beyond the picture."""


@dataclass(frozen=True)
class Polygon:
    """The union of closed outlines, as (x, y) in pixels, filled as pycocotools fills them."""

    parts: tuple[tuple[Point, ...], ...]

    def __post_init__(self) -> None:
        for part in self.parts:
            if len(part) < _LEAST_POINTS:
                raise ValueError(f"a polygon has {len(part)} points; it needs {_LEAST_POINTS}")
            if not all(math.isfinite(number) for point in part for number in point):
                raise ValueError("a polygon has a point that is no number")

    def mask(self, size: Size) -> np.ndarray:
        """As `Shape.mask`."""
        # Far beyond the picture, the pixels of an outline would fill the memory.
        farthest = _FARTHEST * max(size)
        if far := [point for part in self.parts for point in part if max(map(abs, point)) > farthest]:
            raise ValueError(
                f"a polygon has the point {far[0]}, far outside of the picture of {size[1]}x{size[0]} pixels"
            )
        flat = [[number for point in part for number in point] for part in self.parts]
        return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(flat, *size))).astype(bool)

    def box(self) -> Box:
        """As `Shape.box`."""
        xs, ys = zip(*(point for part in self.parts for point in part), strict=True)
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True)
class CocoRuns:
    """Compressed run lengths of COCO, and the box that the file has of them."""

    counts: str
    size: Size
    extent: Box

    def mask(self, size: Size) -> np.ndarray:
        """As `Shape.mask`."""
        if self.size != size:
            raise ValueError(f"its run lengths do not add up to the {size[1]}x{size[0]} pixels of the image")
        return decode_runs(parse_run_lengths({"size": list(size), "counts": self.counts}, size), size)

    def box(self) -> Box:
        """As `Shape.box`."""
        return self.extent


@dataclass(frozen=True)
class BrushRuns:
    """Label Studio's run lengths of a brushed mask."""

    stream: bytes

    def mask(self, size: Size) -> np.ndarray:
        """As `Shape.mask`."""
        return decode_brush(self.stream, size)

    def box(self) -> None:
        """As `Shape.box`."""
        return None


@dataclass(frozen=True)
class BoxRuns:
    """CVAT's run lengths: outside and inside in turn, row by row, within a box of whole pixels."""

    counts: tuple[int, ...]
    left: int
    top: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or min(self.counts, default=0) < 0:
            raise ValueError(f"a mask of {self.width}x{self.height} pixels has run lengths that cannot be")
        if sum(self.counts) != self.width * self.height:
            raise ValueError(
                f"the run lengths of a mask add up to {sum(self.counts)}, not to its {self.width}x{self.height} pixels"
            )

    def mask(self, size: Size) -> np.ndarray:
        """As `Shape.mask`."""
        if self.width * self.height > _FARTHEST * size[0] * size[1]:
            raise ValueError(f"a mask has {self.width}x{self.height} pixels, its picture {size[1]}x{size[0]}")
        x1, y1, x2, y2 = self.box()
        rows, columns = slice(max(0, y1), max(0, min(y2, size[0]))), slice(max(0, x1), max(0, min(x2, size[1])))
        found = np.zeros(size, dtype=bool)
        if rows.start < rows.stop and columns.start < columns.stop:
            inside = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts).reshape(self.height, self.width)
            found[rows, columns] = inside[rows.start - y1 : rows.stop - y1, columns.start - x1 : columns.stop - x1]
        return found

    def box(self) -> tuple[int, int, int, int]:
        """As `Shape.box`."""
        return self.left, self.top, self.left + self.width, self.top + self.height


@dataclass(frozen=True)
class MaskFile:
    """A picture that is black outside the region, and white inside."""

    path: Path

    def mask(self, size: Size) -> np.ndarray:
        """As `Shape.mask`."""
        if image_size(self.path) != size:
            raise ImageError(f"{self.path}: is not of {size[1]}x{size[0]} pixels, as other masks of the image are")
        if image_mode(self.path) in _ONE_CHANNEL:
            inside = np.unique(read_labels(self.path))
            if np.count_nonzero(inside) > 1:
                raise ImageError(
                    f"{self.path}: has {len(inside)} values where a mask has two, 0 outside and 255 inside; name the "
                    f"classes of ids with --palette"
                )
        return read_mask(self.path)

    def box(self) -> None:
        """As `Shape.box`."""
        return None


def rectangle(box: Box, degrees: float = 0.0, pivot: Point = (0.0, 0.0)) -> Polygon:
    """The polygon of a box that is turned clockwise about a point.

    Raises:
        ValueError: a number is none.
    """
    x1, y1, x2, y2 = box
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))

    def turn(x: float, y: float) -> Point:
        right, down = x - pivot[0], y - pivot[1]
        return pivot[0] + right * cosine - down * sine, pivot[1] + right * sine + down * cosine

    corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    return Polygon((tuple(turn(*corner) for corner in corners) if degrees else corners,))

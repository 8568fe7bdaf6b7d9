"""The outlines of a mask along the edges of its pixels: exact polygons with holes, and simplified ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

# The fewest corners that enclose anything.
_LEAST_CORNERS = 3


class Outline(NamedTuple):
    """One connected part of a mask.

    Points are (x, y) in pixels, from the upper left corner of the image; the last is not the first again. No ring
    touches itself; a hole may touch the exterior, or another hole, in single points.

    Attributes:
        exterior: (P, 2) float64, clockwise as one sees it.
        holes: (Q, 2) float64 each, anticlockwise.
    """

    exterior: np.ndarray
    holes: list[np.ndarray]


def mask_outlines(mask: np.ndarray, tolerance: float = 0.0) -> list[Outline]:
    """The outlines of the parts of a mask; pixels that share a corner alone belong to different parts.

    They come in the order in which `scipy.ndimage.label` numbers the parts. Without a tolerance they are exact: the
    pixels whose middles they enclose are the mask.

    Args:
        mask: (H, W) bool.
        tolerance: how far, in pixels, corners may lie from the line that replaces them. Holes that vanish are left
            out; parts that would vanish stay exact. Simplified rings may cross each other.

    Raises:
        ValueError: another shape than (H, W), or a tolerance that is negative.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask is (H, W), got the shape {mask.shape}")
    if not tolerance >= 0:
        raise ValueError(f"the tolerance is {tolerance}; give 0 for exact outlines, or so many pixels")
    # Classes are often small, and what is outside of them has no corners.
    top, bottom, left, right = extent(mask)
    parts, count = ndimage.label(mask[top:bottom, left:right])
    exteriors: list[np.ndarray | None] = [None] * count
    holes: list[list[np.ndarray]] = [[] for _ in range(count)]
    for ring in _rings(np.pad(parts > 0, 1)):
        owner = parts[_pixel_inside(ring)] - 1
        ring += (left, top)
        if _doubled_area(ring) > 0:
            exteriors[owner] = ring
        else:
            holes[owner].append(ring)
    outlines = []
    for exterior, inner in zip(exteriors, holes, strict=True):
        assert exterior is not None  # each part has one
        if tolerance:
            shorter = simplify_ring(exterior, tolerance)
            exterior = exterior if _is_empty(shorter) else shorter
            inner = [ring for ring in (simplify_ring(hole, tolerance) for hole in inner) if not _is_empty(ring)]
        outlines.append(Outline(exterior, inner))
    return outlines


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The first row of a mask (H, W), the one after its last, and its columns likewise; zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def simplify_ring(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """A ring (P, 2) of fewer corners, by Douglas and Peucker: none that is left out lies farther from it than told."""
    start = int(np.argmin(ring @ [1.0, 1.0]))
    ring = np.roll(ring, -start, axis=0)
    closed = np.concatenate([ring, ring[:1]])
    middle = int(np.argmax(np.linalg.norm(ring - ring[0], axis=1)))
    keep = np.zeros(len(closed), bool)
    keep[[0, middle]] = True
    spans = [(0, middle), (middle, len(ring))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        distance = _distance(closed[first + 1 : last], closed[first], closed[last])
        farthest = int(np.argmax(distance))
        if distance[farthest] > tolerance:
            split = first + 1 + farthest
            keep[split] = True
            spans += [(first, split), (split, last)]
    return ring[keep[:-1]]


def _rings(padded: np.ndarray) -> list[np.ndarray]:
    """The rings (P, 2) float64 of a mask with a margin of one pixel, in pixels of the mask without it."""
    y, x, along_row, along_column = _corners(padded)
    points = np.stack([x, y], axis=1).astype(np.float64)
    has_mask_below = padded[y + 1, x + 1].tolist()
    row_of, column_of = along_row.tolist(), along_column.tolist()
    seen = [False] * len(x)
    rings: list[np.ndarray] = []
    for start in range(len(x)):
        if seen[start]:
            continue
        # The left end of an edge. The mask has to be on the right of the way: below of one to the right.
        corner = start if has_mask_below[start] else row_of[start]
        walk: list[int] = []
        while not seen[corner]:
            across = row_of[corner]
            seen[corner] = seen[across] = True
            walk += [corner, across]
            corner = column_of[across]
        rings += _without_touching(points[walk])
    return rings


def _corners(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where the edges of a mask turn; a place where two parts touch is there twice.

    Returns:
        y, x (K,) of the corners, row by row; and of each the index of the corner at the other end of its edge in the
        row, and of that in the column.
    """
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    is_odd = upper_left ^ upper_right ^ lower_left ^ lower_right
    is_crossing = (upper_left == lower_right) & (upper_right == lower_left) & (upper_left != upper_right)
    y, x = np.nonzero(is_odd | is_crossing)
    times = 1 + is_crossing[y, x]
    y, x = np.repeat(y, times), np.repeat(x, times)
    is_second = np.zeros(len(x), bool)
    is_second[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    # Of two in one place the first is that of the edge from the left. It turns up around a pixel at the upper left,
    # and down around one at the lower left, so that the two parts stay apart.
    goes_down = is_crossing[y, x] & (is_second == upper_left[y, x])
    # Along a line, edges lie between each corner of even number and the next.
    other = np.arange(len(x)) ^ 1
    by_column = np.lexsort((goes_down, y, x))
    along_column = np.empty(len(x), int)
    along_column[by_column] = by_column[other]
    return y, x, other, along_column


def _without_touching(ring: np.ndarray) -> list[np.ndarray]:
    """A ring (P, 2) as rings that come to no place twice."""
    rings, path, number_in_path = [], [], {}
    for place in map(tuple, ring.tolist()):
        if place in number_in_path:
            loop = path[number_in_path[place] :]
            del path[number_in_path[place] :]
            for left in loop:
                del number_in_path[left]
            rings.append(np.array(loop))
        number_in_path[place] = len(path)
        path.append(place)
    return [*rings, np.array(path)]


def _pixel_inside(ring: np.ndarray) -> tuple[int, int]:
    """The (row, column) of the pixel on the right of the first edge of a ring."""
    (x, y), (next_x, next_y) = ring[:2].astype(int).tolist()
    row = y if next_x > x or next_y > y else y - 1
    column = x if next_x > x or next_y < y else x - 1
    return row, column


def _doubled_area(ring: np.ndarray) -> float:
    """Twice the area of a ring (P, 2), negative for one that runs anticlockwise as one sees it."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)


def _is_empty(ring: np.ndarray) -> bool:
    return len(ring) < _LEAST_CORNERS or _doubled_area(ring) == 0


def _distance(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """How far points (P, 2) are from the line between two points."""
    way = end - start
    length = float(way @ way)
    share = np.clip((points - start) @ way / length, 0, 1) if length else np.zeros(len(points))
    return np.linalg.norm(points - start - share[:, None] * way, axis=1)

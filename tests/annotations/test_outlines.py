"""Outlines of masks: by hand, and filled again by GDAL, pixel by pixel."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from rasterio.features import rasterize, shapes
from scipy import ndimage

from escnet.annotations.outlines import Outline, mask_outlines, simplify_ring

RING = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]], bool)


def closed(ring: np.ndarray) -> list[list[float]]:
    return [*ring.tolist(), ring[0].tolist()]


def geometry(outline: Outline) -> dict[str, object]:
    return {"type": "Polygon", "coordinates": [closed(ring) for ring in (outline.exterior, *outline.holes)]}


def filled(outlines: list[Outline], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose middles outlines enclose, as GDAL finds them."""
    if not outlines:
        return np.zeros(shape, bool)
    return rasterize([geometry(outline) for outline in outlines], shape).astype(bool)


def random_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    noise = [rng.random((23, 31)) < share for share in (0.05, 0.3, 0.5, 0.6, 0.8, 0.97)]
    smooth = [ndimage.gaussian_filter(rng.standard_normal((40, 50)), 2) > level for level in (-0.1, 0.0, 0.1)]
    return [*noise, *smooth, np.ones((3, 5), bool), np.zeros((3, 5), bool), np.indices((8, 9)).sum(axis=0) % 2 == 0]


def test_a_ring_of_pixels_by_hand() -> None:
    (outline,) = mask_outlines(RING)
    assert outline.exterior.tolist() == [[0, 0], [3, 0], [3, 2], [4, 2], [4, 3], [0, 3]]
    assert [hole.tolist() for hole in outline.holes] == [[[2, 1], [1, 1], [1, 2], [2, 2]]]


def test_one_pixel_has_four_corners() -> None:
    mask = np.zeros((3, 3), bool)
    mask[2, 1] = True
    (outline,) = mask_outlines(mask)
    assert outline.exterior.tolist() == [[1, 2], [2, 2], [2, 3], [1, 3]] and not outline.holes


def test_pixels_that_share_a_corner_are_two_parts() -> None:
    for mask in (np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1]):
        assert [len(outline.exterior) for outline in mask_outlines(mask)] == [4, 4]


def test_a_gap_that_touches_the_outside_in_a_corner_is_a_hole() -> None:
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    (outline,) = mask_outlines(mask)
    assert len(outline.exterior) == 6 and len(outline.holes) == 1
    for ring in (outline.exterior, *outline.holes):
        assert len(np.unique(ring, axis=0)) == len(ring)


@pytest.mark.parametrize("mask", random_masks())
def test_outlines_filled_again_are_the_mask(mask: np.ndarray) -> None:
    outlines = mask_outlines(mask)
    assert len(outlines) == ndimage.label(mask)[1]
    np.testing.assert_array_equal(filled(outlines, mask.shape), mask)
    # GDAL's own tracer finds as many rings, of as many corners.
    theirs = [shape["coordinates"] for shape, value in shapes(mask.astype(np.uint8), connectivity=4) if value == 1]
    ours = [[closed(ring) for ring in (outline.exterior, *outline.holes)] for outline in outlines]
    assert sorted(sorted(len(ring) for ring in part) for part in ours) == sorted(
        sorted(len(ring) for ring in part) for part in theirs
    )


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
def test_simplified_rings_stay_within_the_tolerance(tolerance: float) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((60, 60)), 4) > 0
    exact, simple = mask_outlines(mask), mask_outlines(mask, tolerance)
    assert len(simple) == len(exact)
    for before, after in zip(exact, simple, strict=True):
        assert len(after.exterior) <= len(before.exterior)
        ring = np.array(closed(after.exterior))
        for point in before.exterior:
            assert min(distance(point, a, b) for a, b in pairwise(ring)) <= tolerance + 1e-9
    assert sum(len(o.exterior) for o in simple) < sum(len(o.exterior) for o in exact)


def distance(point: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """By brute force: of a point from 1001 points between two others."""
    steps = np.linspace(0, 1, 1001)[:, None]
    return float(np.linalg.norm(a + steps * (b - a) - point, axis=1).min())


def test_a_staircase_becomes_its_diagonal() -> None:
    stairs = np.tri(20, dtype=bool)
    (outline,) = mask_outlines(stairs, tolerance=1.0)
    assert len(outline.exterior) <= 5
    np.testing.assert_array_equal(simplify_ring(np.array([[0, 0], [1, 0], [2, 0], [2, 2], [0, 2]]), 0.0).shape, (4, 2))


def test_a_part_never_vanishes_and_a_small_hole_does() -> None:
    (outline,) = mask_outlines(RING, tolerance=50)
    assert len(outline.exterior) >= 3 and not outline.holes


def test_other_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2, 2\)"):
        mask_outlines(np.zeros((2, 2, 2), bool))
    with pytest.raises(ValueError, match="tolerance is -1"):
        mask_outlines(RING, -1)

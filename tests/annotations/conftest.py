"""Segmentations of every kind that a format may stumble over, and polygons filled by GDAL."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from rasterio.features import rasterize
from scipy import ndimage

from escnet import Vocabulary
from escnet.segmentation_result import SegmentationResult


def result_of(labels: np.ndarray, names: list[str], background: tuple[str, ...] = ()) -> SegmentationResult:
    """A result with random probabilities."""
    labels = np.asarray(labels, np.int32)
    scores = np.random.default_rng(labels.size).uniform(0.2, 1, labels.shape).astype(np.float32)
    image = np.zeros((*labels.shape, 3), np.uint8)
    return SegmentationResult(labels, scores, image, Vocabulary(names, background))


def names_of(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


def with_holes() -> SegmentationResult:
    """Two rings that touch each other and the border, a class of one pixel in one, and a class that is nowhere."""
    labels = np.zeros((12, 17), np.int32)
    labels[1:8, 2:9], labels[3:6, 4:7], labels[4, 5] = 1, 0, 2
    labels[8:, 9:], labels[10, 11:14] = 1, 0
    return result_of(labels, ["grass", "cat", "ball", "nowhere"])


def smooth() -> SegmentationResult:
    """Blobs of five classes, with islands."""
    fields = np.random.default_rng(3).standard_normal((5, 48, 61))
    return result_of(ndimage.gaussian_filter(fields, (0, 3, 3)).argmax(axis=0), names_of(5))


def noise() -> SegmentationResult:
    """Three classes, pixel by pixel."""
    return result_of(np.random.default_rng(4).integers(0, 3, (19, 23)), names_of(3))


def many() -> SegmentationResult:
    """300 classes, most of one pixel."""
    labels = np.zeros((30, 40), np.int32)
    labels.flat[::4] = np.arange(300)
    return result_of(labels, names_of(300))


def with_background() -> SegmentationResult:
    """The background is the last class."""
    labels = np.full((9, 8), 2)
    labels[2:5, 3:], labels[7, 7] = 0, 1
    return result_of(labels, ["cat", "dog"], ("sky", "sea"))


CASES = (with_holes, smooth, noise, many, with_background)


@pytest.fixture(params=CASES, ids=lambda case: case.__name__)
def result(request: pytest.FixtureRequest) -> SegmentationResult:
    """Each in turn."""
    return request.param()


@pytest.fixture
def filled() -> Callable[[np.ndarray, tuple[int, int]], np.ndarray]:
    """The pixels (H, W) whose middles a ring (P, 2) encloses, as GDAL finds them."""

    def fill(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        points = [*map(tuple, ring.tolist()), tuple(ring[0].tolist())]
        return rasterize([{"type": "Polygon", "coordinates": [points]}], shape).astype(bool)

    return fill

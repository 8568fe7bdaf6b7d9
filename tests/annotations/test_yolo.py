"""YOLO's lines: filled, their polygons are the parts of the segmentation, holes left open."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from escnet.annotations.outlines import mask_outlines
from escnet.annotations.yolo import _shortest, bridged
from escnet.segmentation_result import SegmentationResult

Fill = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


def test_lines_filled_again_are_the_label_map(result: SegmentationResult, filled: Fill) -> None:
    height, width = shape = result.labels.shape
    drawn = np.full(shape, len(result.class_names) - 1 if result.vocabulary.background else -1)
    lines = result.to_yolo().splitlines()
    assert len(lines) == sum(ndimage.label(result.labels == i)[1] for i in range(len(result.vocabulary.names)))
    for line in lines:
        class_id, *shares = line.split(" ")
        points = np.array(shares, float).reshape(-1, 2)
        assert points.min() >= 0 and points.max() <= 1
        drawn[filled(points * (width, height), shape)] = int(class_id)
    np.testing.assert_array_equal(drawn, result.labels)


def test_a_bridge_by_hand() -> None:
    mask = np.ones((3, 4), bool)
    mask[1, 2] = False
    (outline,) = mask_outlines(mask)
    ring = bridged(outline).tolist()
    assert ring == [[0, 0], [4, 0], [3, 1], [2, 1], [2, 2], [3, 2], [3, 1], [4, 0], [4, 3], [0, 3]]
    x, y = np.array(ring).T
    assert (x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2 == mask.sum()


def test_coordinates_of_large_pictures_keep_their_pixels() -> None:
    for share in (1 / 100_000, 99_999 / 100_000):
        assert round(float(_shortest(share)) * 100_000, 3) == round(share * 100_000)
    assert _shortest(0.0) == "0" and _shortest(1.0) == "1" and _shortest(0.5) == "0.5"

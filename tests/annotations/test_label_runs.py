"""Label maps as runs, band by band: the same masks, parts, boxes and files as of the whole in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from scipy import ndimage

from escnet.annotations.coco import annotations, run_annotations
from escnet.annotations.label_runs import LabelRuns
from escnet.annotations.labelled_image import LabelledImage
from escnet.data.run_lengths import compress_runs, decode_runs, parse_run_lengths

NAMES = tuple(f"class {number}" for number in range(4))


def label_maps() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(rng.standard_normal((4, 41, 57)), (0, 2, 2)).argmax(axis=0)
    # Ids that belong to no class, as of pixels without data; a single class; single rows, columns and pixels.
    holed = np.where(rng.random(smooth.shape) < 0.1, 255, smooth)
    noise = rng.integers(0, 4, (17, 13))
    sizes = [(5, 6), (1, 9), (9, 1), (1, 1)]
    return [smooth, holed, noise, np.zeros((8, 8), int), *(rng.integers(0, 3, size) for size in sizes)]


def runs_of(labels: np.ndarray, width: int) -> LabelRuns:
    bands = (labels[:, start : start + width].astype(np.uint8) for start in range(0, labels.shape[1], width))
    return LabelRuns.of_bands(bands, labels.shape)


def without_id(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(({**entry, "id": 0} for entry in entries), key=str)


@pytest.mark.parametrize("width", [1, 5, 100])
@pytest.mark.parametrize("labels", label_maps(), ids=lambda labels: f"{labels.shape}")
def test_they_say_the_same_as_the_whole(labels: np.ndarray, width: int) -> None:
    scores = np.array([0.5, 0.25, 1, 0.125])
    image, runs = LabelledImage(labels, NAMES, scores), runs_of(labels, width)
    ids = range(len(NAMES))
    whole = list(run_annotations(runs.class_masks(ids), labels.shape, scores, 3, first_id=5))
    assert whole == annotations(image.class_masks(), 3, first_id=5)
    parts = list(run_annotations(runs.object_masks(ids), labels.shape, scores, 3))
    assert [entry["id"] for entry in parts] == list(range(1, len(parts) + 1))
    assert without_id(parts) == without_id(annotations(image.object_masks(), 3))


def test_classes_that_are_not_asked_for_are_left_out() -> None:
    runs = runs_of(np.array([[0, 1, 2]]), 2)
    assert [mask.class_id for mask in runs.class_masks(range(2))] == [0, 1]
    assert [mask.class_id for mask in runs.object_masks(range(2))] == [0, 1]


def test_strings_of_any_run_lengths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        runs = rng.integers(1, rng.choice([3, 40, 2000]), rng.integers(1, 30))
        runs[0] *= rng.integers(0, 2)
        size = (1, int(runs.sum()))
        ours = compress_runs(runs, size)
        if size[1]:
            theirs = coco_masks.encode(np.asfortranarray(decode_runs(runs, size), np.uint8))
            assert ours == {"size": list(size), "counts": theirs["counts"].decode()}
    # More than fits into memory, and than six groups of five bits hold.
    for long in ([0, 4_000_000_000], [3_000_000_000, 7, 1_000_000_000, 9], [0, 1, 2_000_000_000, 2_000_000_000, 3]):
        size = (1, sum(long))
        assert parse_run_lengths(compress_runs(np.array(long), size), size).tolist() == long

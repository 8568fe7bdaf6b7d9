"""Label Studio's tasks: polygons filled again, and brush strokes decoded by its own rule, are the segmentation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from escnet.data.label_studio_brush import encode_brush
from escnet.segmentation_result import SegmentationResult

Fill = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


def decoded(data: list[int]) -> np.ndarray:
    """The values of run lengths as thi.ng/rle-pack reads them: a bit string, read from the front."""
    bits, at = "".join(f"{byte:08b}" for byte in data), 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    number, value_bits = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < number:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(value_bits)] * length if is_run else [read(value_bits) for _ in range(length)]
    assert len(values) == number and len(bits) - at < 8
    return np.array(values)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 5), (150, 130), (300, 300)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_brush_strokes_are_decoded_to_the_mask(shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(shape) < share
    values = decoded(encode_brush(mask)).reshape(*shape, 4)
    # Label Studio shows the last of the four, which is how opaque a pixel is.
    for channel in range(4):
        np.testing.assert_array_equal(values[..., channel], mask * 255)


def test_run_lengths_by_hand() -> None:
    bits = f"{16:032b}" + "00111" + "0010" + "0101" + "1010" + "1111"  # 16 values of 8 bits, lengths of 3, 6, 11, 16
    bits += "1" + "00" + "111" + "00000000"  # 8 zeros
    bits += "1" + "00" + "111" + "11111111"  # 8 times 255
    bits += "0" * (-len(bits) % 8)
    expected = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert encode_brush(np.array([[False, False, True, True]])) == expected


def regions(result: SegmentationResult, **options: bool) -> list[dict[str, Any]]:
    task = json.loads(json.dumps(result.to_label_studio("/data/local-files/?d=photo.jpg", **options)))
    assert task["data"] == {"image": "/data/local-files/?d=photo.jpg"}
    (prediction,) = task["predictions"]
    found = prediction["result"]
    assert len({region["id"] for region in found}) == len(found)
    asked = result.labels < len(result.vocabulary.names)
    assert prediction["score"] == pytest.approx(result.scores[asked].mean(), rel=1e-5)
    for region in found:
        assert (region["original_height"], region["original_width"]) == result.labels.shape
        assert (region["from_name"], region["to_name"], region["image_rotation"]) == ("label", "image", 0)
    return found


def test_polygons_filled_again_are_the_label_map(result: SegmentationResult, filled: Fill) -> None:
    height, width = shape = result.labels.shape
    drawn = np.full(shape, len(result.class_names) - 1 if result.vocabulary.background else -1)
    for region in regions(result):
        assert region["type"] == "polygonlabels" and region["value"]["closed"]
        (word,) = region["value"]["polygonlabels"]
        mask = filled(np.array(region["value"]["points"]) / 100 * (width, height), shape)
        drawn[mask] = result.class_names.index(word)
        assert region["score"] == pytest.approx(result.scores[mask].mean(), rel=1e-5)
    np.testing.assert_array_equal(drawn, result.labels)


def test_brush_strokes_are_the_classes(result: SegmentationResult) -> None:
    for region in regions(result, brush=True):
        assert region["type"] == "brushlabels" and region["value"]["format"] == "rle"
        (word,) = region["value"]["brushlabels"]
        mask = decoded(region["value"]["rle"]).reshape(*result.labels.shape, 4)[..., 3] == 255
        np.testing.assert_array_equal(mask, result.mask(word))
        assert region["score"] == pytest.approx(result.scores[mask].mean(), rel=1e-5)

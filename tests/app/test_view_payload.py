"""What a browser decodes is what the model said."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from escnet.app.view_payload import NOTHING, map_picture, mask_payload, result_payload
from escnet.drawing.palette import palette
from escnet.segmentation_result import SegmentationResult
from escnet.vocabulary import Vocabulary


def decoded(url: str) -> Image.Image:
    head, contents = url.split(",")
    image = Image.open(io.BytesIO(base64.b64decode(contents)))
    assert head == f"data:image/{image.format.lower()};base64"
    return image


def read_map(url: str) -> tuple[np.ndarray, np.ndarray]:
    """As the view's JavaScript does: labels, and scores of 0..255."""
    values = np.asarray(decoded(url)).astype(int)
    return values[..., 0] | values[..., 1] << 8, values[..., 2]


def test_labels_above_a_byte_and_scores_survive() -> None:
    labels = np.array([[0, 255, 256], [70, 847, NOTHING]], np.int32)
    scores = np.array([[0, 1, 0.5], [0.25, 1.0001, -0.1]], np.float32)
    values = np.asarray(map_picture(labels, scores)).astype(int)
    assert np.array_equal(values[..., 0] + 256 * values[..., 1], labels)
    assert values[..., 2].tolist() == [[0, 255, 128], [64, 255, 0]]


def test_the_payload_of_a_result() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 2], [4, 8]).reshape(3, 4).astype(np.int32)
    scores = rng.random((3, 4), np.float32)
    image = np.full((3, 4, 3), 90, np.uint8)
    result = SegmentationResult(labels, scores, image, Vocabulary(["cat, kitty", "dog"], ["sky"]))
    payload = result_payload(result)
    found, levels = read_map(payload["map"])
    assert np.array_equal(found, labels)
    assert np.abs(levels / 255 - scores).max() <= 0.5 / 255 + 1e-6
    picture = decoded(payload["picture"])
    assert picture.size == (payload["width"], payload["height"]) == (4, 3)
    assert np.abs(np.asarray(picture).astype(int) - 90).max() <= 2
    assert [(entry["id"], entry["name"]) for entry in payload["classes"]] == [(2, "background"), (0, "cat, kitty")]
    assert payload["classes"][1]["colour"] == palette(3)[0].tolist()
    assert payload["classes"][1]["share"] == 4 / 12
    assert np.isclose(payload["classes"][1]["score"], scores[0].mean())
    assert payload["absent"] == ["dog"]


def test_the_payload_of_a_mask() -> None:
    mask = np.eye(4, dtype=bool)
    payload = mask_payload(np.zeros((4, 4, 3), np.uint8), mask, 1.03)
    labels, levels = read_map(payload["map"])
    assert np.array_equal(labels == 0, mask)
    assert set(labels[~mask]) == {NOTHING}
    assert np.array_equal(levels == 255, mask)
    assert (payload["classes"][0]["share"], payload["classes"][0]["score"]) == (0.25, 1)

"""Tests of SegmentationResult: what it says, shows and writes of an image."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from escnet import Vocabulary
from escnet.segmentation_result import SegmentationResult


def result_of(labels: list[list[int]], scores: list[list[float]], vocabulary: Vocabulary) -> SegmentationResult:
    labels = np.array(labels, np.int32)
    return SegmentationResult(labels, np.array(scores, np.float32), np.zeros((*labels.shape, 3), np.uint8), vocabulary)


def test_mask_and_summary_by_hand() -> None:
    result = result_of([[0, 2, 2]], [[0.5, 0.2, 0.4]], Vocabulary(["cat", "dog"], background=["sky"]))
    assert result.mask("background").tolist() == [[False, True, True]]
    assert not result.mask("dog").any()
    summary = json.loads(json.dumps(result.summary()))
    assert (summary["height"], summary["width"]) == (1, 3)
    assert summary["class_names"] == ["cat", "dog", "background"]
    first, second = summary["classes"]
    assert (first["id"], first["name"], first["pixels"]) == (2, "background", 2)
    assert first["fraction"] == pytest.approx(2 / 3) and first["mean_score"] == pytest.approx(0.3)
    assert (second["name"], second["pixels"]) == ("cat", 1)


def test_the_summary_says_how_many_words_competed() -> None:
    result = result_of([[0, 2, 2]], [[0.5, 0.2, 0.4]], Vocabulary(["cat|kitten", "dog"], background=["sky", "sea"]))
    assert [result.summary()[key] for key in ("words", "words_considered")] == [4, 4]
    few = replace(result, rows=torch.tensor([[0, 2, 3]]))
    assert few.summary()["words_considered"] == 3
    assert replace(few, considered=4).summary()["words_considered"] == 4


def test_mask_of_an_unknown_class_names_near_ones() -> None:
    with pytest.raises(ValueError, match=r'no class "cats".*"cat"'):
        result_of([[0]], [[1.0]], Vocabulary(["cat", "dog"])).mask("cats")


def test_a_notebook_shows_the_overlay_and_print_one_line() -> None:
    vocabulary = Vocabulary(["cat", "dog", "sky", "sea"])
    result = result_of([[0, 1, 2, 3, 3]] * 2000, [[1.0] * 5] * 2000, vocabulary)
    shown = Image.open(io.BytesIO(result._repr_png_()))
    assert shown.format == "PNG" and max(shown.size) == 1600
    assert repr(result) == "SegmentationResult(5x2000: sea 40.0%, cat 20.0%, dog 20.0% and 1 more)"
    assert repr(result_of([[0]], [[1.0]], vocabulary)) == "SegmentationResult(1x1: cat 100.0%)"


@pytest.mark.parametrize("n", [256, 257])
def test_the_vocabulary_decides_how_deep_label_maps_are(n: int, tmp_path: Path) -> None:
    vocabulary = Vocabulary([f"class {i}" for i in range(n)])
    for i in (0, n - 1):
        result_of([[i]], [[1.0]], vocabulary).save_labels(tmp_path / f"{i}.png")
        with Image.open(tmp_path / f"{i}.png") as saved:
            assert saved.mode == ("L" if n == 256 else "I;16")


@pytest.mark.parametrize(("n", "mode"), [(3, "L"), (300, "I;16")])
def test_saved_labels_are_the_ids(n: int, mode: str, tmp_path: Path) -> None:
    vocabulary = Vocabulary([f"class {i}" for i in range(n)])
    result_of([[0, n - 1]], [[1.0, 1.0]], vocabulary).save_labels(tmp_path / "l.png")
    with Image.open(tmp_path / "l.png") as saved:
        assert saved.mode == mode
        assert np.asarray(saved).tolist() == [[0, n - 1]]

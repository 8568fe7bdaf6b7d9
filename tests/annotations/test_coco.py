"""COCO's format: what pycocotools reads of it is the segmentation, to the pixel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from scipy import ndimage

from escnet import Vocabulary
from escnet.segmentation_result import SegmentationResult


def result_of(labels: list[list[int]]) -> SegmentationResult:
    pixels, words = np.array(labels, np.int32), Vocabulary(["cat", "dog"], ["sky"])
    return SegmentationResult(pixels, np.ones(pixels.shape, np.float32), np.zeros((*pixels.shape, 3), np.uint8), words)


def loaded(result: SegmentationResult, folder: Path, **options: bool) -> COCO:
    path = folder / "annotations.json"
    path.write_text(json.dumps(result.to_coco("a/photo.jpg", 7, **options)))
    return COCO(str(path))


def test_pycocotools_reads_the_masks(result: SegmentationResult, tmp_path: Path) -> None:
    coco = loaded(result, tmp_path)
    assert coco.imgs == {7: {"id": 7, "file_name": "a/photo.jpg", "height": len(result.labels),
                             "width": result.labels.shape[1]}}  # fmt: skip
    assert [coco.cats[i + 1]["name"] for i in range(len(coco.cats))] == list(result.vocabulary.names)
    present = set(np.unique(result.labels).tolist()) & set(range(len(result.vocabulary.names)))
    assert sorted(a["category_id"] - 1 for a in coco.anns.values()) == sorted(present)
    assert sorted(coco.anns) == list(range(1, len(present) + 1))
    for annotation in coco.anns.values():
        mask = result.labels == annotation["category_id"] - 1
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        rows, columns = np.nonzero(mask)
        assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0 and annotation["image_id"] == 7
        x, y = columns.min(), rows.min()
        assert annotation["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
        assert annotation["score"] == pytest.approx(result.scores[mask].mean())


def test_objects_are_the_connected_parts(result: SegmentationResult, tmp_path: Path) -> None:
    coco = loaded(result, tmp_path, objects=True, background=True)
    count = 0
    for class_id in range(len(result.class_names)):
        parts, parts_of_class = ndimage.label(result.labels == class_id)
        found = coco.loadAnns(coco.getAnnIds(catIds=[class_id + 1]))
        assert len(found) == parts_of_class
        for annotation in found:
            mask = coco.annToMask(annotation).astype(bool)
            (number,) = np.unique(parts[mask])
            np.testing.assert_array_equal(mask, parts == number)
            assert annotation["score"] == pytest.approx(result.scores[mask].mean())
        count += parts_of_class
    assert len(coco.anns) == count


def test_the_background_is_there_if_it_is_asked_for() -> None:
    result = result_of([[0, 1, 2]])
    assert [c["name"] for c in result.to_coco()["categories"]] == ["cat", "dog"]
    asked = result.to_coco(background=True)
    assert [c["name"] for c in asked["categories"]] == ["cat", "dog", "background"]
    assert {a["category_id"] for a in asked["annotations"]} == {1, 2, 3}


def test_nothing_but_background_has_no_annotation() -> None:
    result = result_of([[2, 2]])
    assert result.to_coco()["annotations"] == [] and result.to_yolo() == ""
    assert result.to_label_studio()["predictions"][0]["result"] == []
    assert len(result.to_supervision()) == 0

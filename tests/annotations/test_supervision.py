"""Detections of supervision: masks, boxes, classes and scores."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from escnet.segmentation_result import SegmentationResult

supervision = pytest.importorskip("supervision")
pytestmark = pytest.mark.filterwarnings("ignore:OpenCV")


def test_detections_are_the_classes(result: SegmentationResult) -> None:
    detections = result.to_supervision(background=True)
    assert detections.class_id.tolist() == np.unique(result.labels).tolist()
    assert detections["class_name"].tolist() == [result.class_names[i] for i in detections.class_id]
    for mask, class_id, score, box in zip(
        detections.mask, detections.class_id, detections.confidence, detections.xyxy, strict=True
    ):
        np.testing.assert_array_equal(mask, result.labels == class_id)
        assert score == pytest.approx(result.scores[mask].mean())
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_supervision_draws_them(result: SegmentationResult) -> None:
    detections = result.to_supervision(objects=True)
    assert len(detections) == len(result.to_coco(objects=True)["annotations"])
    drawn = supervision.MaskAnnotator().annotate(np.zeros((*result.labels.shape, 3), np.uint8), detections)
    assert drawn.any()


def test_without_supervision_the_remedy_is_told(result: SegmentationResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'escnet\[supervision\]'"):
        result.to_supervision()

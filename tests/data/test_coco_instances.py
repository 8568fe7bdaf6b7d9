"""Objects in COCO's and LVIS's files: masks in three forms, boxes, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from escnet.data.coco_instances import (
    BoxPrompt,
    InstanceData,
    image_file,
    read_detections,
    read_instances,
)
from escnet.data.errors import DatasetError
from escnet.data.run_lengths import encode_mask

SQUARE = np.zeros((6, 8), dtype=bool)
SQUARE[1:4, 2:6] = True
# Run lengths go down the columns: 2 of 6 pixels and 1, then 3 inside and 3 outside, four times.
RUNS = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 3, 3, 14]}
POLYGON = [[2, 1, 6, 1, 6, 4, 2, 4]]
CONTENTS: dict[str, Any] = {
    "images": [
        {"id": 5, "file_name": "a.jpg", "height": 6, "width": 8},
        {"id": 6, "file_name": "b.jpg", "height": 6, "width": 8},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
    "annotations": [
        {"id": 0, "image_id": 5, "category_id": 3, "bbox": [2, 1, 4, 3], "area": 12, "iscrowd": 0,
         "segmentation": POLYGON},
        {"id": 1, "image_id": 5, "category_id": 8, "bbox": [2, 1, 4, 3], "iscrowd": 1, "segmentation": RUNS},
        {"id": 2, "image_id": 6, "category_id": 8, "segmentation": encode_mask(SQUARE)},
    ],
}  # fmt: skip


def write(tmp_path: Path, contents: Any, name: str = "instances.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(contents))
    return path


def read(tmp_path: Path, limit: int | None = None, **changes: Any) -> InstanceData:
    return read_instances(write(tmp_path, CONTENTS | changes), limit)


def test_masks_in_three_forms(tmp_path: Path) -> None:
    data = read(tmp_path)
    for annotation in data.annotations:
        np.testing.assert_array_equal(coco_masks.decode(annotation["segmentation"]).astype(bool), SQUARE)
    assert [annotation["id"] for annotation in data.annotations] == [1, 2, 3]
    assert [annotation["area"] for annotation in data.annotations] == [12, 12, 12]
    assert data.annotations[2]["bbox"] == [2, 1, 4, 3]
    assert not data.is_lvis


def test_boxes_of_annotated_objects_but_not_of_crowds(tmp_path: Path) -> None:
    boxes = read(tmp_path).annotated_boxes()
    assert boxes == {5: [BoxPrompt((2, 1, 6, 4), 3, None, 1)], 6: [BoxPrompt((2, 1, 6, 4), 8, None, 3)]}


def test_a_part_of_the_images(tmp_path: Path) -> None:
    data = read(tmp_path, limit=1)
    assert [image["id"] for image in data.images] == [5]
    assert len(data.annotations) == 2


def test_lvis(tmp_path: Path) -> None:
    address = "http://images.cocodataset.org/val2017/000000397133.jpg"
    images = [
        {"id": number, "coco_url": address, "height": 6, "width": 8, "neg_category_ids": [8],
         "not_exhaustive_category_ids": []}
        for number in (5, 6)
    ]  # fmt: skip
    categories = [{"id": 3, "name": "cat", "frequency": "r"}, {"id": 8, "name": "dog", "frequency": "f"}]
    data = read(tmp_path, images=images, categories=categories)
    assert data.is_lvis
    assert data.images[0]["neg_category_ids"] == [8]
    (tmp_path / "000000397133.jpg").touch()
    assert image_file(tmp_path, data.images[0]) == tmp_path / "000000397133.jpg"
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "000000397133.jpg").touch()
    assert image_file(tmp_path, data.images[0]) == tmp_path / "val2017" / "000000397133.jpg"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("annotations", 0, "segmentation"), [[1, 2, 3, 4]], "the object 0 cannot be used .*polygon has 4 numbers"),
        (("annotations", 0, "segmentation"), [], "it has no polygon"),
        (("annotations", 1, "segmentation"), RUNS | {"size": [8, 6]}, r"its mask is \(8, 6\), the image \(6, 8\)"),
        (("annotations", 1, "segmentation"), RUNS | {"counts": [13, 3]}, "do not add up"),
        # As pycocotools reads it, the rest of the mask is whatever is in the memory.
        (("annotations", 2, "segmentation"), RUNS | {"counts": "=3"}, "the object 2 cannot be used .*do not cover"),
        (("annotations", 2, "segmentation"), RUNS | {"counts": "0`"}, "the object 2 cannot be used .*break off"),
        (("annotations", 0, "bbox"), [1, 2, 3], "the object 0 cannot be used"),
        (("annotations", 0, "image_id"), 77, "the object 0 is in the image 77, which is not listed"),
        (("annotations", 0, "category_id"), 77, "has the category 77, which is not listed"),
        (("images", 0, "height"), "tall", "the image .* lacks something"),
        (("images", 0, "id"), 6, "two images have the same id"),
        (("categories", 0), {"id": 3}, "the category .* lacks something"),
        (("images",), [], "lists no image"),
        (("annotations",), {}, "has no list annotations"),
    ],
)
def test_refused(tmp_path: Path, place: tuple[Any, ...], value: Any, message: str) -> None:
    contents = copy.deepcopy(CONTENTS)
    *way, last = place
    holder = contents
    for key in way:
        holder = holder[key]
    holder[last] = value
    with pytest.raises(DatasetError, match=message):
        read_instances(write(tmp_path, contents))


def test_boxes_of_a_detector(tmp_path: Path) -> None:
    data = read(tmp_path)
    good = {"image_id": 5, "category_id": 8, "bbox": [1, 2, 3, 4], "score": 0.5}
    others = [good | {"image_id": 99}, good | {"bbox": [1, 2, 0, 4]}]
    boxes = read_detections(write(tmp_path, [*others, good], "boxes.json"), data)
    assert boxes == {5: [BoxPrompt((1, 2, 4, 6), 8, 0.5)], 6: []}
    for entries, message in (
        ([good, {"image_id": 5}], "entry 1 lacks something"),
        ([good | {"category_id": 4}], "entry 0 is of the category 4"),
        (others, "has no box for the images"),
        ({}, "holds a dict"),
    ):
        with pytest.raises(DatasetError, match=message):
            read_detections(write(tmp_path, entries, "boxes.json"), data)

"""Objects in COCO's format: what is written is what is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pycocotools import mask as coco_masks

from escnet.data.coco_instances import read_instances
from escnet.data.coco_writing import AnnotatedImage, image_entry, object_entry, write_instances

MASK = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]], dtype=bool)


def test_the_entry_of_a_mask() -> None:
    entry = object_entry(MASK, 7, 3)
    np.testing.assert_array_equal(coco_masks.decode(entry["segmentation"]), MASK)
    assert entry["bbox"] == [1, 1, 3, 2] and entry["area"] == 3
    assert (entry["image_id"], entry["category_id"], entry["iscrowd"]) == (7, 3, 0)


def test_objects_are_read_as_they_were_written(tmp_path: Path) -> None:
    images = [
        AnnotatedImage(image_entry(1, "a/b.png", (3, 5)), [object_entry(MASK, 1, 2)]),
        AnnotatedImage(image_entry(2, "c.png", (3, 5)), []),
        AnnotatedImage(image_entry(3, "d.png", (3, 5)), [object_entry(MASK, 3, 1), object_entry(~MASK, 3, 2)]),
    ]
    write_instances(tmp_path / "new" / "objects.json", images, {1: "cat", 2: "dog"})
    data = read_instances(tmp_path / "new" / "objects.json")
    assert [(image["id"], image["file"]) for image in data.images] == [(1, "a/b.png"), (2, "c.png"), (3, "d.png")]
    assert data.categories == ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"})
    assert [(one["id"], one["image_id"], one["category_id"]) for one in data.annotations] == [
        (1, 1, 2),
        (2, 3, 1),
        (3, 3, 2),
    ]
    assert data.annotations[2]["area"] == 12 and data.annotations[2]["bbox"] == [0, 0, 5, 3]

"""Annotations in COCO's format for objects: polygons of several parts, run lengths, crowds."""

from __future__ import annotations

from pathlib import Path

from escnet.data.coco_instances import read_instances
from escnet.data.errors import DatasetError
from escnet.data.preparation.own_annotations.annotated import AnnotatedImage, AnnotationSet, Region, refuse_twice
from escnet.data.preparation.own_annotations.shapes import CocoRuns


def read_coco(path: Path) -> AnnotationSet:
    """Read a file of COCO's format. Classes stand in the order of their ids; crowds lie below all other objects.

    Raises:
        DatasetError: it cannot be read, an entry lacks something or names what is not there, or a category is there
            twice or has no name.
    """
    data = read_instances(path)
    try:
        categories = sorted(data.categories, key=lambda category: category["id"])
    except TypeError as error:
        raise DatasetError(
            f"{path}: the ids of its categories have no order ({error}); make all of them numbers"
        ) from None
    ids = [category["id"] for category in categories]
    refuse_twice(path, "the id of a category", [str(number) for number in ids], "give each category an id of its own")
    names = {category["id"]: " ".join(category["name"].split()) for category in categories}
    refuse_twice(path, "the category", list(names.values()), "merge the two, or rename one")
    regions: dict[object, list[Region]] = {image["id"]: [] for image in data.images}
    for entry in data.annotations:
        x, y, width, height = entry["bbox"]
        runs = entry["segmentation"]
        shape = CocoRuns(runs["counts"], tuple(runs["size"]), (x, y, x + width, y + height))
        order = -1 if entry["iscrowd"] else 0
        regions[entry["image_id"]].append(Region(names[entry["category_id"]], shape, order))
    images = [
        AnnotatedImage(
            str(image["file"]), f"image {image['id']}", (image["height"], image["width"]), tuple(regions[image["id"]])
        )
        for image in data.images
    ]
    return AnnotationSet(path, (path,), tuple(names.values()), tuple(images), smaller_on_top=True)

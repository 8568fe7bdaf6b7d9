"""Objects with boxes and masks written in COCO's json format, as `coco_instances` reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_masks

from escnet.data.run_lengths import encode_mask
from escnet.safe_files import replacing


class AnnotatedImage(NamedTuple):
    """Entries of an image and of the objects in it.

    Attributes:
        image: as of `image_entry`.
        objects: as of `object_entry`.
    """

    image: dict[str, Any]
    objects: list[dict[str, Any]]


def image_entry(number: int, file: str, size: tuple[int, int]) -> dict[str, Any]:
    """The entry of an image: its id, its path below the folder of all, with "/", and its (height, width)."""
    return {"id": number, "file_name": file, "height": size[0], "width": size[1]}


def object_entry(mask: np.ndarray, image: int, category: int) -> dict[str, Any]:
    """The entry of an object, without an id.

    Args:
        mask: (H, W) bool, of the image's size.
        image, category: their ids.
    """
    runs = encode_mask(mask)
    return object_entry_of_runs(runs, coco_masks.toBbox(runs).tolist(), int(mask.sum()), image, category)


def object_entry_of_runs(
    runs: Mapping[str, Any], box: Sequence[float], area: int, image: int, category: int
) -> dict[str, Any]:
    """The entry of an object, without an id.

    Args:
        runs: as of `encode_mask`.
        box: left, top, width and height in pixels.
        area: in pixels.
        image, category: their ids.
    """
    return {
        "image_id": image,
        "category_id": category,
        "segmentation": dict(runs),
        "bbox": [float(value) for value in box],
        "area": area,
        "iscrowd": 0,
    }


def write_instances(
    path: str | os.PathLike[str], images: Sequence[AnnotatedImage], categories: Mapping[int, str]
) -> None:
    """Write the objects of images, which are numbered from 1 in their order.

    Args:
        path: of the file.
        images: the entries.
        categories: name by id.
    """
    objects = [entry for image in images for entry in image.objects]
    contents = {
        "images": [image.image for image in images],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(objects, start=1)],
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(contents), encoding="utf-8")

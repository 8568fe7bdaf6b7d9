"""Objects with boxes and masks in COCO's json format, of COCO itself and of LVIS, and boxes of a detector for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pycocotools import mask as coco_masks

from escnet.data.errors import DatasetError
from escnet.data.json_files import read_json_file, read_json_object
from escnet.data.run_lengths import parse_run_lengths

# Numbers that a polygon needs at least.
_LEAST_POLYGON = 6
# Sides of an image that a polygon may be away from it.
_FARTHEST = 10
_LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
Annotation = dict[str, Any]
Rle = dict[str, Any]


class BoxPrompt(NamedTuple):
    """A box in an image, to be answered by a mask.

    Attributes:
        box: (x1, y1, x2, y2), edges in pixels of the image, whose left edge is at 0.
        category: id of the object's class.
        score: of the detector; None for an annotated box.
        annotation: id of the annotated object; None for a detected one.
    """

    box: tuple[float, float, float, float]
    category: int
    score: float | None = None
    annotation: int | None = None


@dataclass(frozen=True)
class InstanceData:
    """The photographs of a set, and the objects that are annotated in them.

    Attributes:
        path: of the file.
        images: entries with id, file, height and width; of LVIS also the classes that were looked for in vain
            ("neg_category_ids") and those of which not all objects are marked ("not_exhaustive_category_ids").
        categories: entries with id and name; of LVIS also "frequency", r, c or f.
        annotations: entries with id from 1, image_id, category_id, bbox, area, iscrowd and segmentation as compressed
            run lengths.
        is_lvis: whether only some classes are annotated in each image, as in LVIS.
    """

    path: Path
    images: tuple[dict[str, Any], ...]
    categories: tuple[dict[str, Any], ...]
    annotations: tuple[Annotation, ...]
    is_lvis: bool

    def annotated_boxes(self) -> dict[int, list[BoxPrompt]]:
        """The boxes of all objects by image; of crowds none, since a box does not say what is meant."""
        found: dict[int, list[BoxPrompt]] = {image["id"]: [] for image in self.images}
        for annotation in self.annotations:
            if not annotation["iscrowd"]:
                x, y, width, height = annotation["bbox"]
                prompt = BoxPrompt((x, y, x + width, y + height), annotation["category_id"], None, annotation["id"])
                found[annotation["image_id"]].append(prompt)
        return found


def read_instances(path: str | os.PathLike[str], limit: int | None = None) -> InstanceData:
    """Read a file of objects, ``instances_val2017.json`` or LVIS's ``lvis_v1_val.json``.

    Masks may be polygons, run lengths or compressed run lengths. A missing area is counted, a missing "iscrowd" is 0.

    Args:
        path: of the file.
        limit: only the first so many images.

    Raises:
        DatasetError: the file cannot be read, or an entry lacks something; the message names it.
    """
    path = Path(path).expanduser()
    contents = read_json_object(path, "objects")
    missing = [name for name in ("images", "annotations", "categories") if not isinstance(contents.get(name), list)]
    if missing:
        raise DatasetError(f"{path}: has no list {missing[0]}; expected is COCO's format for objects")
    categories = [_category(entry, path) for entry in contents["categories"]]
    images = [_image(entry, path) for entry in contents["images"]][:limit]
    if not images:
        raise DatasetError(f"{path}: lists no image; download it again")
    is_lvis = all("neg_category_ids" in image for image in images) and all("frequency" in c for c in categories)
    shapes = {image["id"]: (image["height"], image["width"]) for image in images}
    if len(shapes) < len(images):
        raise DatasetError(f"{path}: two images have the same id; merge their entries")
    known = {category["id"] for category in categories}
    annotations: list[Annotation] = []
    for entry in contents["annotations"]:
        # Numbered anew from 1: to pycocotools, an object with the id 0 is one that was not found.
        annotation = _annotation(entry, len(annotations) + 1, shapes, known, path, bool(limit))
        if annotation is not None:
            annotations.append(annotation)
    return InstanceData(path, tuple(images), tuple(categories), tuple(annotations), is_lvis)


def read_detections(path: str | os.PathLike[str], data: InstanceData) -> dict[int, list[BoxPrompt]]:
    """The boxes of a detector by image, from COCO's format of results: image_id, category_id, bbox and score.

    Boxes without extent are left out, those of images that `data` lacks too.

    Raises:
        DatasetError: the file cannot be read, an entry lacks something, or there is not one box for these images.
    """
    path = Path(path).expanduser()
    entries = read_json_file(path, "boxes")
    if not isinstance(entries, list):
        raise DatasetError(f"{path}: holds a {type(entries).__name__}, where COCO's results are a list of boxes")
    found: dict[int, list[BoxPrompt]] = {image["id"]: [] for image in data.images}
    known = {category["id"] for category in data.categories}
    for number, entry in enumerate(entries):
        try:
            image, category, score = entry["image_id"], entry["category_id"], float(entry["score"])
            x, y, width, height = map(float, entry["bbox"])
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{path}: entry {number} lacks something ({error!r}); each needs image_id, category_id, bbox "
                "(x, y, width, height) and score"
            ) from None
        if category not in known:
            raise DatasetError(f"{path}: entry {number} is of the category {category}, which {data.path} does not have")
        if image in found and width > 0 and height > 0:
            found[image].append(BoxPrompt((x, y, x + width, y + height), category, score))
    if not any(found.values()):
        raise DatasetError(f"{path}: has no box for the images of {data.path}; take the boxes of that set")
    return found


def image_file(root: Path, image: dict[str, Any]) -> Path:
    """The photograph of an entry: below `root`, or below its folder of the name that the entry begins with."""
    place = PurePosixPath(image["file"])
    candidates = (root / place, root / place.name)
    return next((path for path in candidates if path.is_file()), candidates[0])


def _category(entry: Any, path: Path) -> dict[str, Any]:
    try:
        frequency = {"frequency": entry["frequency"]} if "frequency" in entry else {}
        hash(entry["id"])
        return {"id": entry["id"], "name": str(entry["name"])} | frequency
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path}: the category {entry} lacks something ({error!r}); it needs id and name") from None


def _image(entry: Any, path: Path) -> dict[str, Any]:
    try:
        # LVIS has addresses alone: .../val2017/000000397133.jpg
        file = entry["file_name"] if "file_name" in entry else "/".join(entry["coco_url"].split("/")[-2:])
        hash(entry["id"])
        image = {"id": entry["id"], "file": file, "height": int(entry["height"]), "width": int(entry["width"])}
        return image | {name: list(entry[name]) for name in _LVIS_LISTS if name in entry}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"{path}: the image {entry} lacks something ({error!r}); it needs id, file_name, height and width"
        ) from None


def _annotation(
    entry: Any, number: int, shapes: dict[int, tuple[int, int]], known: set[int], path: Path, is_part: bool
) -> Annotation | None:
    """An object as our code takes it; None for one of an image that is left out."""
    try:
        image, category = entry["image_id"], entry["category_id"]
        if image not in shapes:
            if is_part:
                return None
            raise DatasetError(f"{path}: the object {entry.get('id')} is in the image {image}, which is not listed")
        if category not in known:
            raise DatasetError(f"{path}: the object {entry.get('id')} has the category {category}, which is not listed")
        rle = _run_lengths(entry["segmentation"], shapes[image])
        area = float(entry["area"]) if "area" in entry else float(coco_masks.area(rle))
        box = entry["bbox"] if "bbox" in entry else coco_masks.toBbox(rle).tolist()
        x, y, width, height = map(float, box)
        return {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": [x, y, width, height],
            "area": area,
            "iscrowd": int(entry.get("iscrowd", 0)),
            "segmentation": rle,
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DatasetError):
            raise
        name = entry.get("id") if isinstance(entry, dict) else entry
        raise DatasetError(
            f"{path}: the object {name} cannot be used ({error!r}); it needs image_id, category_id, bbox and "
            "segmentation, polygons or run lengths"
        ) from None


def _run_lengths(segmentation: Any, shape: tuple[int, int]) -> Rle:
    """Compressed run lengths of polygons, run lengths or compressed run lengths, of an image of (height, width)."""
    if isinstance(segmentation, list):
        _check_polygons(segmentation, shape)
        return _as_text(coco_masks.merge(coco_masks.frPyObjects(segmentation, *shape)))
    if tuple(segmentation["size"]) != shape:
        raise ValueError(f"its mask is {tuple(segmentation['size'])}, the image {shape}")
    if isinstance(segmentation["counts"], list):
        if sum(segmentation["counts"]) != shape[0] * shape[1]:
            raise ValueError("its run lengths do not add up to the pixels of the image")
        return _as_text(coco_masks.frPyObjects(segmentation, *shape))
    # pycocotools fills what damaged ones leave out with whatever is in the memory.
    parse_run_lengths(segmentation, shape)
    return {"size": list(shape), "counts": segmentation["counts"]}


def _check_polygons(polygons: Sequence[Any], shape: tuple[int, int]) -> None:
    farthest = _FARTHEST * max(shape)
    for polygon in polygons:
        if len(polygon) < _LEAST_POLYGON or len(polygon) % 2:
            raise ValueError(f"a polygon has {len(polygon)} numbers")
        # Written so that NaN is refused too. The pixels of an outline that is far away would fill the memory.
        if not all(abs(number) <= farthest for number in polygon):
            raise ValueError(f"a polygon reaches far outside of the image of {shape[1]}x{shape[0]} pixels")
    if not polygons:
        raise ValueError("it has no polygon")


def _as_text(rle: Rle) -> Rle:
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}

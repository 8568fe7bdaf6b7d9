"""One picture as it goes into a shard: its bytes, and its masks as SA-1B's JSON."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks

from escnet.data.folder import IGNORE_LABELS
from escnet.data.images import ImageError, image_mode, read_image, read_labels
from escnet.data.preparation.making import shrunk_size
from escnet.data.run_lengths import encode_mask, parse_run_lengths
from escnet.data.shards.accounting import UnusableSampleError
from escnet.data.shards.masks import read_annotations, read_masks
from escnet.data.shards.pictures import Picture
from escnet.data.shards.shrinking import shrink_masks

# Formats whose bytes are stored as they are, by Pillow's name. The first picture of an MPO is a JPEG.
_STORED = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
SA1B = "sa1b"
_NO_REGION = 0
RunLengths = dict[str, Any]


@dataclass(frozen=True)
class Storing:
    """How pictures are stored.

    Attributes:
        masks: "" for none, "sa1b" for NAME.json beside NAME.jpg, or the folder of PNGs whose values are regions.
        ignore: values that are no region; None for 0 and 255 of 8 bits, 0 and 65535 of 16 bits, 0 of colours.
        size: to what the shorter side is brought down, in pixels; 0 for pictures as they are.
        quality: of JPEGs that are encoded, 1..100.
    """

    masks: str = ""
    ignore: tuple[int, ...] | None = None
    size: int = 0
    quality: int = 90


class Stored(NamedTuple):
    """A picture in a shard, or why it is not in one.

    Attributes:
        picture: which.
        members: contents by suffix; empty for one that cannot serve.
        reason: why it cannot.
    """

    picture: Picture
    members: dict[str, bytes]
    reason: str = ""


def store(picture: Picture, storing: Storing) -> Stored:
    """Read a picture and its masks, and check both; never raises for what is wrong with them."""
    try:
        return Stored(picture, _members(picture, storing))
    except (UnusableSampleError, ImageError, OSError) as error:
        return Stored(picture, {}, str(error).removeprefix(f"{picture.path}: "))


def _members(picture: Picture, storing: Storing) -> dict[str, bytes]:
    data = Path(picture.path).read_bytes()
    pixels = read_image(picture.path)
    stored = pixels.shape[:2]
    size = shrunk_size(stored, storing.size)
    with Image.open(io.BytesIO(data)) as image:
        suffix = _STORED.get(image.format)
    if suffix is None or size != stored:
        suffix, data = "jpg", _encode_image(pixels, size, storing.quality)
    if not storing.masks:
        return {suffix: data}
    if storing.masks == SA1B:
        annotations, masks = _published_masks(picture, stored)
        if size == stored:
            return {suffix: data, "json": annotations}
    else:
        masks = _region_masks(picture, storing, stored)
    if size != stored:
        masks = [encode_mask(mask) for mask in shrink_masks(_runs(masks, stored), stored, size).numpy()]
    return {suffix: data, "json": _annotations(os.path.basename(picture.path), masks, size)}


def _encode_image(pixels: np.ndarray, size: tuple[int, int], quality: int) -> bytes:
    image = Image.fromarray(pixels)
    if pixels.shape[:2] != size:
        image = image.resize(size[::-1], Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality)
    return file.getvalue()


def _published_masks(picture: Picture, size: tuple[int, int]) -> tuple[bytes, list[RunLengths]]:
    """SA-1B's JSON beside a picture, checked, and the masks in it."""
    path = Path(picture.path).with_suffix(".json")
    if not path.is_file():
        raise UnusableSampleError(f"has no masks: there is no {path.name} beside it")
    data = path.read_bytes()
    read_masks(data, size)
    return data, [annotation["segmentation"] for annotation in read_annotations(data)]


def _region_masks(picture: Picture, storing: Storing, size: tuple[int, int]) -> list[RunLengths]:
    """A mask for each value of the PNG that goes with a picture, but for those that are ignored."""
    path = Path(storing.masks, f"{picture.name}.png")
    if not path.is_file():
        raise UnusableSampleError(f"has no masks: there is no {path}")
    regions, void = _read_regions(path)
    if regions.shape != size:
        raise UnusableSampleError(
            f"has {size[1]}x{size[0]} pixels, upright, but {path} has {regions.shape[1]}x{regions.shape[0]}"
        )
    ignored = void if storing.ignore is None else storing.ignore
    return [encode_mask(regions == value) for value in np.unique(regions).tolist() if value not in ignored]


def _read_regions(path: Path) -> tuple[np.ndarray, tuple[int, ...]]:
    """The (H,W) values of a PNG, and which of them are no region."""
    if image_mode(path) == "RGB":
        return read_image(path).astype(np.int64) @ np.array([1, 256, 65536]), (_NO_REGION,)
    labels = read_labels(path)
    return labels, (_NO_REGION, IGNORE_LABELS[8 if labels.dtype.itemsize == 1 else 16])


def _runs(masks: list[RunLengths], size: tuple[int, int]) -> list[np.ndarray]:
    return [parse_run_lengths(mask, size) for mask in masks]


def _annotations(name: str, masks: list[RunLengths], size: tuple[int, int]) -> bytes:
    """SA-1B's JSON of the masks that have a pixel."""
    rows = [
        {
            "id": number,
            "segmentation": mask,
            "bbox": coco_masks.toBbox(mask).tolist(),
            "area": int(coco_masks.area(mask)),
        }
        for number, mask in enumerate(masks)
        if coco_masks.area(mask)
    ]
    if not rows:
        raise UnusableSampleError(f"has no masks, or none that is left at {size[1]}x{size[0]} pixels")
    content = {"image": {"file_name": name, "width": size[1], "height": size[0]}, "annotations": rows}
    return json.dumps(content, separators=(",", ":")).encode("utf-8")

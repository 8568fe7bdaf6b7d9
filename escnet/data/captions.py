"""Photographs and their captions, in the json files of COCO captions and of Karpathy's splits (Flickr30k, COCO)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from escnet.data.errors import DatasetError
from escnet.data.json_files import read_json_object

KARPATHY_SPLIT = "test"


class Captions(NamedTuple):
    """What is said of some photographs.

    Attributes:
        images: their paths below the folder of images, without repetition.
        texts: all captions.
        owners: index of the image of each caption.
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    owners: tuple[int, ...]

    def of_images(self, kept: Mapping[str, int]) -> Captions:
        """The captions of some of the images alone, whose new indices `kept` tells by name."""
        pairs = [
            (text, kept[self.images[owner]])
            for text, owner in zip(self.texts, self.owners, strict=True)
            if self.images[owner] in kept
        ]
        images = tuple(sorted(kept, key=lambda name: kept[name]))
        return Captions(images, tuple(text for text, _ in pairs), tuple(owner for _, owner in pairs))


def read_captions(
    path: str | os.PathLike[str], root: Path, split: str = KARPATHY_SPLIT, per_image: int = 0
) -> Captions:
    """Read a file of captions: COCO's ("images" and "annotations") or Karpathy's ("images" with "sentences").

    Args:
        path: of the file.
        root: folder of the images, to find out whether names there have a folder of their own ("val2014/name.jpg").
        split: of Karpathy's file; COCO's has one split a file.
        per_image: the first so many captions of each image; 0 for all.

    Raises:
        DatasetError: the file cannot be read, is neither, or holds no caption.
    """
    path = Path(path).expanduser()
    contents = read_json_object(path, "captions")
    try:
        pairs = _coco(contents) if "annotations" in contents else _karpathy(contents, split, path)
        by_image: dict[str, list[str]] = {}
        for place, text in pairs:
            if not isinstance(text, str) or not text.strip():
                raise DatasetError(f"{path}: a caption of {place} is {text!r}; remove it")
            by_image.setdefault(str(place), []).append(" ".join(text.split()))
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path}: is not a file of captions ({error!r}); expected are COCO's images and annotations, or Karpathy's "
            "images with filename, sentences and split"
        ) from None
    if not by_image:
        raise DatasetError(f"{path}: holds no caption; download it again")
    names = tuple(_below(root, place) for place in by_image)
    chosen = [texts[: per_image or None] for texts in by_image.values()]
    owners = tuple(owner for owner, texts in enumerate(chosen) for _ in texts)
    return Captions(names, tuple(text for texts in chosen for text in texts), owners)


def _coco(contents: dict[str, Any]) -> Iterator[tuple[PurePosixPath, Any]]:
    files = {image["id"]: PurePosixPath(image["file_name"]) for image in contents["images"]}
    for annotation in contents["annotations"]:
        yield files[annotation["image_id"]], annotation["caption"]


def _karpathy(contents: dict[str, Any], split: str, path: Path) -> Iterator[tuple[PurePosixPath, Any]]:
    splits = {image["split"] for image in contents["images"]}
    if split not in splits:
        raise DatasetError(f"{path}: has no split {split}; there are {', '.join(sorted(splits))}")
    for image in contents["images"]:
        if image["split"] == split:
            for sentence in image["sentences"]:
                yield PurePosixPath(image.get("filepath", "")) / image["filename"], sentence["raw"]


def _below(root: Path, place: str) -> str:
    """The path of an image below the root, which may be the folder that the file's own path begins with."""
    name = PurePosixPath(place).name
    return name if not (root / place).exists() and (root / name).exists() else place

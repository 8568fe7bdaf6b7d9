"""The photographs that annotations name, found in a folder, and the frame in which they were annotated."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from escnet.data.errors import DatasetError, listed
from escnet.data.folder import IMAGE_SUFFIXES
from escnet.data.images import image_orientation, image_size
from escnet.data.preparation.own_annotations.annotated import AnnotatedImage
from escnet.data.preparation.own_annotations.shapes import Size

# What Label Studio puts before the name of an uploaded file.
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")
_ORIENTATION_TAG = 0x0112
UPRIGHT, STORED = "upright", "stored"


class Photographs:
    """The photographs of a folder, by whatever part of their path annotations name.

    Attributes:
        root: the folder.
        files: path of each below it, with "/".
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DatasetError(f"there is no folder {root}; name that of the photographs as --images")
        self.root = root
        self.files = sorted(
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        )
        if not self.files:
            raise DatasetError(
                f"{root}: has no photographs ({', '.join(IMAGE_SUFFIXES)}); name their folder as --images"
            )
        self._whole = _by_tail(self.files)
        self._without_suffix = _by_tail(str(PurePosixPath(file).with_suffix("")) for file in self.files)
        self._suffixed = {}
        for file in self.files:
            self._suffixed.setdefault(str(PurePosixPath(file).with_suffix("")), []).append(file)

    def find(self, name: str, with_suffix: bool = True) -> str | None:
        """The one photograph that a name means, as its path below the folder; None if there is none.

        The name may begin with folders that are not there, lack the folders that the photograph is in, and have the
        prefix of an upload to Label Studio.

        Raises:
            DatasetError: it may mean several.
        """
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
        if not parts:
            return None
        stripped = _UPLOAD.sub("", parts[-1], count=1) if _UPLOAD.match(parts[-1]) else None
        for last in filter(None, (parts[-1], stripped)):
            found = self._find((*parts[:-1], last), with_suffix)
            if found:
                return found
        return None

    def _find(self, parts: tuple[str, ...], with_suffix: bool) -> str | None:
        paths = self._whole if with_suffix else self._without_suffix
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            found = paths.get(tail, [])
            if tail in found:
                found = [tail]
            if not with_suffix:
                found = [file for path in found for file in self._suffixed[path]]
            if len(found) > 1:
                raise DatasetError(
                    f"{self.root}: '{'/'.join(parts)}' may mean {listed(found, 5)}; rename all but one, or name a "
                    f"folder below as --images"
                )
            if found:
                return found[0]
        return None


class Frame(NamedTuple):
    """How a label map has to be turned to fit its upright photograph.

    Attributes:
        size: (height, width) that is painted.
        orientation: the EXIF orientation to turn by; 1 for none.
        is_certain: the sizes leave no doubt.
    """

    size: Size
    orientation: int = 1
    is_certain: bool = True


def find_frame(photograph: Path, annotated: AnnotatedImage, assumed: str) -> Frame:
    """The frame in which an image was annotated: upright, or the pixels as stored.

    Args:
        photograph: the file, whose EXIF data may turn it.
        annotated: of which the size tells, unless both frames have the same.
        assumed: `UPRIGHT` or `STORED`, where it does not.

    Raises:
        DatasetError: the size is neither that of the upright nor that of the stored photograph.
        ImageError: the photograph cannot be read.
    """
    stored, orientation = image_size(photograph, upright=False), image_orientation(photograph)
    upright = stored[::-1] if orientation >= 5 else stored
    size = annotated.size or (upright if assumed == UPRIGHT else stored)
    if size not in (upright, stored):
        raise DatasetError(
            f"{annotated.place} is annotated at {size[1]}x{size[0]} pixels (width x height), but {photograph} has "
            f"{upright[1]}x{upright[0]}; take the photographs that were annotated"
        )
    if orientation == 1:
        return Frame(size)
    if upright == stored:
        return Frame(size, orientation if assumed == STORED else 1, is_certain=False)
    return Frame(size) if size == upright else Frame(size, orientation)


def turn_upright(labels: np.ndarray, orientation: int) -> np.ndarray:
    """An (H,W) integer label map of the pixels as stored, turned as the EXIF orientation turns its photograph."""
    if orientation == 1:
        return labels
    image = Image.fromarray(labels.astype(np.int32))
    image.getexif()[_ORIENTATION_TAG] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def _by_tail(paths: Iterable[str]) -> dict[str, list[str]]:
    """The paths that end in each path of whole names."""
    found: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        parts = path.split("/")
        for start in range(len(parts)):
            found.setdefault("/".join(parts[start:]), []).append(path)
    return found

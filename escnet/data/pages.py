"""The pages of a TIFF, each as a picture of its own: which ones a file has, and what they are called."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from escnet.data.opening import open_image

_SUFFIXES = (".tif", ".tiff")
# Between the name of a file and the number of a page, as in addresses of pages.
_MARK = "#page="
# The tag that says what else a page may be: a smaller copy of another (overviews, thumbnails), or its transparency.
_KIND_TAG, _SMALLER_COPY, _TRANSPARENCY = 254, 1, 4


@dataclass(frozen=True)
class Page(os.PathLike):
    """A page of a file, for `escnet.data.images.read_image` and whatever reads pictures by it.

    Attributes:
        path: of the file.
        number: from 1, of those pages that are pictures.
        frame: from 0, among all that the file holds.
    """

    path: Path
    number: int
    frame: int

    def __str__(self) -> str:
        return f"{self.path}{_MARK}{self.number}"

    def __fspath__(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        """The name of the file, and the page."""
        return f"{self.path.name}{_MARK}{self.number}"

    @property
    def stem(self) -> str:
        """What the files that are made of the page are called: ``scan_page0003``."""
        return f"{self.path.stem}_page{self.number:04d}"

    @property
    def suffix(self) -> str:
        """Of the file."""
        return self.path.suffix


def pages_of(path: Path) -> list[Path | Page]:
    """The pages of a TIFF that are pictures; of one with a single picture, and of any other file, the path itself.

    Smaller copies of a page, as a Cloud Optimized GeoTIFF has, and masks of transparency are no pictures. Whether a
    file can be read, and is not too large, is for who reads its pages.
    """
    if path.suffix.lower() not in _SUFFIXES:
        return [path]
    try:
        with warnings.catch_warnings(), open_image(path, None) as image:
            warnings.simplefilter("ignore")
            frames = [frame for frame in range(getattr(image, "n_frames", 1)) if _is_picture(image, frame)]
    # As many kinds as a damaged file may have faults; its reader names them.
    except Exception:
        return [path]
    if len(frames) < 2:
        return [path]
    return [Page(path, number, frame) for number, frame in enumerate(frames, start=1)]


def _is_picture(image: Image.Image, frame: int) -> bool:
    image.seek(frame)
    kind = getattr(image, "tag_v2", {}).get(_KIND_TAG, 0)
    return not kind & (_SMALLER_COPY | _TRANSPARENCY)


def page_of_name(name: str) -> tuple[Path, int | None]:
    """The file, and the number of the page, that the text of a path or a page means."""
    file, mark, number = name.rpartition(_MARK)
    if mark and number.isdecimal() and not Path(name).exists():
        return Path(file), int(number)
    return Path(name), None

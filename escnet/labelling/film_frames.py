"""The frames of a film as pictures, which annotations of them need: decoded again, for those that are segmented."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from escnet.data.images import ImageError
from escnet.labelling.pictures import REPORT, LabellingError
from escnet.labelling.video_files import VideoReader
from escnet.safe_files import DiskFullError, is_disk_full

# Below the output folder, where YOLO looks for pictures.
FRAMES_FOLDER = "images"
# In the folder of a film's frames: says of which film and which report they are, and that they are no one else's.
_MARK = ".frames.json"
_QUALITY = 95


@dataclass(frozen=True)
class FinishedFilm:
    """A film that is segmented.

    Attributes:
        name: of its outputs.
        path: of the film.
        report: file of its report.
        every: each so many-th frame is segmented.
        indices: of the segmented frames.
    """

    name: str
    path: Path
    report: Path
    every: int
    indices: tuple[int, ...]

    @classmethod
    def of_report(cls, report: Path, contents: Mapping[str, Any]) -> FinishedFilm:
        """The film of a report that has frames."""
        indices = tuple(entry["index"] for entry in contents["frames"])
        name = report.name.removesuffix(REPORT)
        return cls(name, Path(contents["image"]), report, contents.get("every", 1), indices)

    @property
    def folder(self) -> Path:
        """Of the pictures of its frames."""
        return self.report.parent / FRAMES_FOLDER / self.name

    def frame(self, index: int) -> Path:
        """The picture of a frame."""
        return self.folder / f"{index:06d}.jpg"


def check_frames(output: Path, name: str) -> None:
    """See that the pictures of a film's frames can be written, before anything takes long.

    Args:
        output: folder of the outputs.
        name: of the outputs of the film.

    Raises:
        LabellingError: there is a folder of someone else in their place.
    """
    images = output / FRAMES_FOLDER
    if images.is_symlink() or (images.exists() and not images.is_dir()):
        raise LabellingError(
            f"{images}: is a link or a file, and the frames of films belong into a folder of that name; remove it, or "
            "choose another --output"
        )
    folder = images / name
    if os.path.lexists(folder) and not (folder / _MARK).is_file():
        raise LabellingError(
            f"{folder}: is there, and was not written by --format, which writes the frames of the film there; move it "
            "away, or choose another --output"
        )


def write_frames(film: FinishedFilm) -> None:
    """Write the segmented frames of a film as JPEG files, all at once, unless those of this report are there.

    Raises:
        ImageError: the film is not what it was, or cannot be read again.
        LabellingError: there is a folder of someone else in their place.
        DiskFullError: there is no room for them; what was there before stands.
    """
    output, mark = film.report.parent, film.folder / _MARK
    check_frames(output, film.name)
    # Of a film that is segmented anew, the frames may be others.
    stamp = {"film": str(film.path), "report_sha256": hashlib.sha256(film.report.read_bytes()).hexdigest()}
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == stamp:
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".labelling-", dir=output) as temporary:
            made = Path(temporary) / film.name
            made.mkdir()
            _decode(film, made)
            (made / _MARK).write_text(json.dumps(stamp), encoding="utf-8")
            film.folder.parent.mkdir(exist_ok=True)
            if film.folder.is_dir():
                shutil.rmtree(film.folder)
            os.replace(made, film.folder)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(f"{film.folder}: its frames are not written, No space left on device") from error
        raise


def _decode(film: FinishedFilm, folder: Path) -> None:
    """Write the segmented frames of a film into a folder."""
    missing = set(film.indices)
    with VideoReader(film.path, film.every) as reader:
        for picture in reader:
            if picture.index in missing:
                Image.fromarray(picture.pixels).save(folder / film.frame(picture.index).name, quality=_QUALITY)
                missing.remove(picture.index)
    if missing:
        raise ImageError(
            f"{film.path}: has no frame {min(missing)} any more, which {film.report} tells of; segment it again with "
            "--overwrite"
        )

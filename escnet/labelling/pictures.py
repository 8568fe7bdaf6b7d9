"""Which pictures files, folders and patterns stand for, and what the files that are written for them are called."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from PIL.ImageFile import StubImageFile

from escnet.data.pages import Page, pages_of

# Of each picture NAME; the report last, since its presence says that all are there.
OVERLAY, LABELS, PROMPTS, SCORES, REPORT = "_overlay.png", "_labels.png", "_prompts.png", "_scores.npz", ".json"
# Where the label map lies on the Earth, if the picture says that; and the label map as a GeoTIFF, which one that is
# segmented in tiles always has.
WORLD, PLACE, LABEL_TIFF = "_labels.pgw", "_labels.png.aux.xml", "_labels.tif"
# Of a picture that is segmented in tiles.
SCORE_TIFF = "_scores.tif"
# Of a film; the labels of its frames are in a folder.
FILM, LEGEND, FRAME_LABELS = "_overlay.mp4", "_legend.png", "_labels"
OUTPUT_SUFFIXES = (
    OVERLAY, LABELS, PROMPTS, SCORES, WORLD, PLACE, LABEL_TIFF, SCORE_TIFF, FILM, LEGEND, REPORT
)  # fmt: skip
# Pillow knows these by name, but has no pixels of them: drawings that another program has to draw, and films.
_NO_PIXELS = {"EPS", "MPEG"}


class LabellingError(ValueError):
    """Inputs or an output folder with which nothing can be done; the message says what to change."""


@dataclass(frozen=True)
class Pictures:
    """What was found.

    Attributes:
        files: each once, folders in the order of their names; of a TIFF of several pages, its pages.
        missing: inputs that match nothing.
        skipped: number of other files in the folders, by suffix.
        outputs: number of files that an earlier labelling wrote, which are no pictures to it.
    """

    files: list[Path | Page]
    missing: list[str]
    skipped: Counter[str] = field(default_factory=Counter)
    outputs: int = 0


def find_pictures(inputs: Sequence[str], recursive: bool = False, output: Path | None = None) -> Pictures:
    """The pictures that files, folders and globs stand for.

    Of a folder, those files are taken whose suffix is that of a format that Pillow can open, but for hidden files.
    What an earlier labelling wrote is not taken, be it in a folder, matched by a pattern, which a shell may have
    expanded, or named.

    Args:
        inputs: paths, and quoted patterns.
        recursive: also look into folders in folders.
        output: a folder that is not looked into on the way.

    Raises:
        LabellingError: when there is no picture at all.
    """
    found: dict[str, Path | Page] = {}
    missing, skipped, outputs = [], Counter(), set()
    readable = readable_suffixes()
    for entry in inputs:
        # Path.expanduser raises where "~name" is no user's home, but a file of that name.
        path = Path(os.path.expanduser(entry))
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            missing.append(entry)
        for match in matches:
            for file in _files_in(match, recursive, output) if match.is_dir() else [match]:
                if _is_output(file):
                    outputs.add(os.path.abspath(file))
                elif match.is_dir() and file.suffix.lower() not in readable:
                    skipped[file.suffix.lower() or "without suffix"] += 1
                else:
                    for page in pages_of(file):
                        found.setdefault(os.path.abspath(page), page)
    if not found:
        others = f" (skipped: {listed_suffixes(skipped)})" if skipped else ""
        others += f" (files that an earlier labelling wrote: {len(outputs)})" if outputs else ""
        raise LabellingError(
            f"no image matches --input {' '.join(inputs)}{others}; give image files, folders with images, or globs"
        )
    return Pictures(list(found.values()), missing, skipped, len(outputs))


def listed_suffixes(skipped: Counter[str]) -> str:
    """``3 .heic, 1 .dng``"""
    return ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common())


def output_names(images: Sequence[Path | Page]) -> list[str]:
    """A name for the outputs of each image: its stem, numbered from the second image of the same stem on."""
    # Compared without case, since some file systems do not know it.
    stems = {image.stem.casefold() for image in images}
    taken: set[str] = set()
    names = []
    for image in images:
        name, number = image.stem, 1
        while name.casefold() in taken or (number > 1 and name.casefold() in stems):
            number += 1
            name = f"{image.stem}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def prepare_output(images: Sequence[Path | Page], names: Sequence[str], output: Path) -> None:
    """Make the output folder.

    Raises:
        LabellingError: an image would be overwritten there, or the folder cannot be made.
    """
    inputs = {os.path.abspath(image) for image in images}
    for name in names:
        for suffix in OUTPUT_SUFFIXES:
            if os.path.abspath(output / f"{name}{suffix}") in inputs:
                raise LabellingError(f"the input {output / name}{suffix} would be overwritten; choose another --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabellingError(f"--output {output}: the folder cannot be made ({error.strerror})") from error


def readable_suffixes() -> set[str]:
    """The suffixes, in small letters, of the formats of which Pillow has pixels."""
    suffixes = set()
    for suffix, kind in Image.registered_extensions().items():
        factory = Image.OPEN[kind][0] if kind in Image.OPEN and kind not in _NO_PIXELS else None
        if factory is not None and not (isinstance(factory, type) and issubclass(factory, StubImageFile)):
            suffixes.add(suffix)
    return suffixes


def _files_in(
    folder: Path, recursive: bool, output: Path | None, above: frozenset[Path] = frozenset()
) -> Iterator[Path]:
    """The files of a folder in the order of their names, without hidden ones; `above` are the folders that it is in."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    yield from (entry for entry in entries if entry.is_file())
    if not recursive:
        return
    # A link to a folder above would be followed for ever.
    above |= {folder.resolve()}
    for entry in entries:
        if entry.is_dir() and entry.resolve() not in above and (output is None or entry.resolve() != output.resolve()):
            yield from _files_in(entry, recursive, output, above)


def _is_output(file: Path) -> bool:
    """Whether a file is what a labelling wrote: its report stands beside it, or it is the report beside the others."""
    for suffix in OUTPUT_SUFFIXES:
        stem = file.name.removesuffix(suffix)
        if stem != file.name:
            beside = (REPORT,) if suffix != REPORT else (OVERLAY, LABELS)
            if any(file.with_name(f"{stem}{other}").is_file() for other in beside):
                return True
    folder = file.parent.name.removesuffix(FRAME_LABELS)
    return folder != file.parent.name and file.parent.with_name(f"{folder}{REPORT}").is_file()

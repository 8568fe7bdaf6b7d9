"""Annotated images matched with their photographs; what does not fit is refused before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from escnet.data.errors import DatasetError, listed
from escnet.data.preparation.own_annotations.annotated import AnnotatedImage, AnnotationSet
from escnet.data.preparation.own_annotations.photographs import UPRIGHT, Frame, Photographs, find_frame

_SHOWN = 10
_BLOCK = 1 << 20


class Match(NamedTuple):
    """An annotated image and its photograph.

    Attributes:
        key: path of the photograph below its folder, without the suffix.
        photograph: the file.
        annotated: what is in it.
        frame: in which that was annotated.
    """

    key: str
    photograph: Path
    annotated: AnnotatedImage
    frame: Frame


def match_photographs(
    annotations: AnnotationSet, photographs: Photographs, with_empty: bool, assumed_frame: str
) -> tuple[list[Match], list[str]]:
    """The images that become label maps, sorted by key, and what is doubtful about them.

    Args:
        annotations: of which each image needs a photograph.
        photographs: the folder.
        with_empty: whether images without a region become label maps too.
        assumed_frame: where sizes cannot tell, as for `find_frame`.

    Raises:
        DatasetError: photographs are missing, meant twice, of the same name or of another size; or none is left.
        ImageError: one cannot be read.
    """
    files = _find_all(annotations, photographs)
    empty = [image for image in annotations.images if image.is_empty]
    warnings = []
    if empty:
        what = "are all unlabelled" if with_empty else "are left out"
        warnings.append(f"{len(empty)} images without a region {what}: {listed((one.file for one in empty), 3)}")
    if others := sorted(set(photographs.files) - {file for file in files if file}):
        warnings.append(
            f"{len(others)} photographs in {photographs.root} are in no annotation, and are left out: "
            f"{listed(others, 3)}"
        )
    chosen = [
        (file, image) for file, image in zip(files, annotations.images, strict=True) if with_empty or not image.is_empty
    ]
    if not chosen:
        raise DatasetError(f"{annotations.path}: no image has a region; annotate some, or name the right file")
    matches = sorted(_frames(annotations.path, photographs, chosen, assumed_frame))
    return matches, warnings + _frame_warnings(matches, assumed_frame)


def digest(matches: Sequence[Match], annotations: AnnotationSet) -> str:
    """SHA-256 of the annotations, and of the names of the photographs and the sizes of their files."""
    state = hashlib.sha256()
    for file in annotations.files:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                state.update(block)
        below = file.is_relative_to(annotations.path)
        state.update((file.relative_to(annotations.path).as_posix() if below else file.name).encode("utf-8"))
    for match in matches:
        state.update(repr((match.key, match.photograph.stat().st_size)).encode("utf-8"))
    return state.hexdigest()


def _find_all(annotations: AnnotationSet, photographs: Photographs) -> list[str]:
    """The photograph of each image."""
    files = [photographs.find(image.file, with_suffix=image.suffixed) for image in annotations.images]
    missing = [image.file for file, image in zip(files, annotations.images, strict=True) if file is None]
    if missing:
        raise DatasetError(
            f"{photographs.root}: {len(missing)} of {len(files)} photographs that {annotations.path} names are "
            f"missing: {listed(missing, _SHOWN)}; name the folder that has them as --images"
        )
    meant: dict[str, AnnotatedImage] = {}
    keys: dict[str, str] = {}
    for file, image in zip(files, annotations.images, strict=True):
        if file in meant:
            raise DatasetError(
                f"{annotations.path}: {meant[file].place} and {image.place} are both of the photograph {file}; merge "
                f"them, or remove one"
            )
        meant[file] = image
        key = PurePosixPath(file).with_suffix("").as_posix()
        if key in keys:
            raise DatasetError(f"{photographs.root}: {keys[key]} and {file} differ in their suffix alone; rename one")
        keys[key] = file
    return files


def _frames(
    path: Path, photographs: Photographs, chosen: Sequence[tuple[str, AnnotatedImage]], assumed: str
) -> list[Match]:
    matches, faults = [], []
    for file, image in chosen:
        photograph = photographs.root / file
        try:
            frame = find_frame(photograph, image, assumed)
        except DatasetError as error:
            faults.append(str(error))
            continue
        matches.append(Match(PurePosixPath(file).with_suffix("").as_posix(), photograph, image, frame))
    if faults:
        raise DatasetError(f"{path}: {len(faults)} of {len(chosen)} images are of another size, the first: {faults[0]}")
    return matches


def _frame_warnings(matches: Sequence[Match], assumed: str) -> list[str]:
    doubtful = [match.photograph.name for match in matches if not match.frame.is_certain]
    turned = [match.photograph.name for match in matches if match.frame.orientation != 1 and match.frame.is_certain]
    warnings = []
    if turned:
        warnings.append(
            f"{len(turned)} images were annotated on the pixels as stored, by their sizes; the label maps are turned "
            f"upright, as EXIF data turn the photographs: {listed(turned, 3)}"
        )
    if doubtful:
        other = "--frame stored" if assumed == UPRIGHT else "--frame upright"
        warnings.append(
            f"{len(doubtful)} photographs are turned by EXIF data, and sizes cannot tell whether they were annotated "
            f"so; they are taken as {assumed}, if that is wrong give {other}: {listed(doubtful, 3)}"
        )
    return warnings

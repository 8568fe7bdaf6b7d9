"""Photographs and label maps on disk, paired by name: prepared ones, and the files of the archives as published."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from escnet.data.errors import DatasetError, listed


class Pair(NamedTuple):
    """A photograph and its label map; `key` is the path of both below their folders, without the suffix."""

    key: str
    image: Path
    labels: Path


class Source(NamedTuple):
    """The published files of one image, and the annotations of this image alone where a file holds those of all."""

    image: str
    labels: str
    detail: Any = None


def pair_files(
    name: str,
    image_root: Path,
    image_suffixes: Sequence[str],
    label_root: Path,
    label_suffixes: Sequence[str],
    expected: str,
    labels_select: bool = False,
) -> list[Pair]:
    """Pair the files below two folders, sorted by key; hidden files are left out.

    Args:
        name: of the dataset, for error messages.
        image_suffixes, label_suffixes: file endings, in lower case.
        expected: what should be there, for error messages.
        labels_select: the photographs of several splits share a folder, and those without a label map are left out.

    Raises:
        DatasetError: nothing found, a file without a partner, or two files of one key.
    """
    images = _files_by_key(name, image_root, image_suffixes)
    labels = _files_by_key(name, label_root, label_suffixes)
    for kind, found in (("image", images), ("label map", labels)):
        if not found:
            raise DatasetError(f"{name}: no {kind} found; {expected}")
    lonely_images = [] if labels_select else sorted(images.keys() - labels.keys())
    for kind, other, lonely in (
        ("image", "label map", lonely_images),
        ("label map", "image", sorted(labels.keys() - images.keys())),
    ):
        if lonely:
            raise DatasetError(f"{name}: {len(lonely)} {kind}(s) without a {other}: {listed(lonely, 5)}; {expected}")
    return [Pair(key, images[key], labels[key]) for key in sorted(labels)]


def files_by_name(folder: Path, suffix: str) -> dict[str, str]:
    """The files of a folder that end in `suffix`, by name without it, sorted; hidden ones are left out."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        found = {
            entry.name.removesuffix(suffix): entry.path
            for entry in entries
            if entry.name.endswith(suffix) and not entry.name.startswith(".")
        }
    return {name: found[name] for name in sorted(found)}


def pair(
    images: Mapping[str, str], labels: Mapping[str, str], expected: str, names: Sequence[str] | None = None
) -> dict[str, Source]:
    """The photograph and the label file of each name, sorted.

    Args:
        images, labels: files by name.
        expected: what should be where, for error messages.
        names: those wanted; default all of either, none of which may then lack its partner.

    Raises:
        DatasetError: nothing found, or a file without a partner.
    """
    for kind, files in (("images", images), ("label files", labels)):
        if not files:
            raise DatasetError(f"no {kind} found; expected are {expected}")
    wanted = sorted(images.keys() | labels.keys() if names is None else names)
    faults = [
        f"{len(lonely)} without {kind}: {listed(lonely, 5)}"
        for kind, files in (("a photograph", images), ("labels", labels))
        if (lonely := [name for name in wanted if name not in files])
    ]
    if faults:
        raise DatasetError(f"of {len(wanted)} images, {' and '.join(faults)}; expected are {expected}")
    return {name: Source(images[name], labels[name]) for name in wanted}


def read_list(path: Path) -> list[str]:
    """The names in a list of VOC, one a line.

    Raises:
        DatasetError: it is missing, or empty.
    """
    names = path.read_text(encoding="utf-8").split() if path.is_file() else []
    if not names:
        raise DatasetError(f"{path}: is missing or empty; it comes with the archive, unpack that again")
    return names


def _files_by_key(name: str, folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in folder.rglob("*"):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in files:
            raise DatasetError(f"{name}: {path} and {files[key].name} have the same name; remove one of them")
        files[key] = path
    return files

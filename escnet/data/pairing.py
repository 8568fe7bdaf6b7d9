"""Photographs and label maps on disk, paired by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from escnet.data.class_tables import DatasetError


class Pair(NamedTuple):
    """A photograph and its label map; `key` is the path of both below their folders, without the suffix."""

    key: str
    image: Path
    labels: Path


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


def listed(values: Iterable[object], limit: int) -> str:
    """The first `limit` values, separated by commas, and dots if there are more."""
    values = list(values)
    return ", ".join(map(str, values[:limit])) + (", ..." if len(values) > limit else "")


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

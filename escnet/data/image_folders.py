"""Photographs in one folder for each class, as ImageNet lays them out, and the words of the classes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from escnet.data.errors import DatasetError, listed
from escnet.data.folder import IMAGE_SUFFIXES
from escnet.safe_files import replacing

# Stands for the names that CLIP's authors gave the 1000 classes, in the order of the folders.
IMAGENET = "imagenet"
# Names of folders that are numbers of classes, not words: n01440764 of ImageNet, 0 to 999 of ImageNet-v2.
_CODE = re.compile(r"n\d{8}|\d+")
# What the name of a folder cannot hold, or a line of a list of classes.
_SEPARATORS = re.compile(r"[\s/\\]+")


class LabelledImage(NamedTuple):
    """A photograph and its class.

    Attributes:
        name: path below the root, with "/".
        label: index of its folder.
    """

    name: str
    label: int


@dataclass(frozen=True)
class ImageFolder:
    """Photographs by class.

    Attributes:
        root: where they are.
        folders: path of each class below it, in order: by number where all are numbers, else by name.
        images: the photographs, by class and name.
    """

    root: Path
    folders: tuple[str, ...]
    images: tuple[LabelledImage, ...]


class NamedClasses(NamedTuple):
    """Classes that compete for an image.

    Attributes:
        words: of each class, synonyms after commas.
        of_folder: index of the class of each folder; a class may have no folder.
    """

    words: tuple[str, ...]
    of_folder: tuple[int, ...]


def read_image_folder(root: str | os.PathLike[str]) -> ImageFolder:
    """List the photographs of a folder in ImageNet's layout; each folder that holds some is a class.

    Hidden files and folders are left out, and no photograph is opened.

    Raises:
        DatasetError: there is no such folder, or no folder with photographs in it.
    """
    root = Path(root).expanduser()
    expected = f"expected is a folder for each class with its photographs in it: {root}/CLASS/*.jpg"
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root.absolute()}; {expected}")
    found = _files_by_folder(root)
    if "." in found:
        raise DatasetError(f"{root}: {found['.'][0]} is in no folder of a class; {expected}")
    if not found:
        raise DatasetError(f"{root}: holds no photographs; {expected}")
    by_number = all(name.isdecimal() for name in found)
    folders = tuple(sorted(found, key=lambda name: (int(name), name) if by_number else (0, name)))
    images = (LabelledImage(f"{name}/{file}", label) for label, name in enumerate(folders) for file in found[name])
    return ImageFolder(root, folders, tuple(images))


def name_classes(folder: ImageFolder, classes: str | os.PathLike[str] | None = None) -> NamedClasses:
    """The words of the classes of a folder.

    Args:
        folder: the photographs.
        classes: a UTF-8 file with a line ``folder<TAB>name, synonym`` for each class, those without photographs too;
            "imagenet" for the 1000 names of CLIP's authors, in the order of the folders; None to take the names of the
            folders, with a blank for each "_".

    Raises:
        DatasetError: the folders' names are no words, the file cannot be read or lacks a folder, or the folders are
            not ImageNet's 1000.
    """
    if classes is None:
        return _folder_words(folder)
    if str(classes) == IMAGENET:
        return _imagenet_words(folder)
    words = _read_words(Path(classes).expanduser())
    rows = {name: row for row, name in enumerate(words)}
    unnamed = [name for name in folder.folders if name not in rows]
    if unnamed:
        raise DatasetError(
            f"{classes}: has no line for {len(unnamed)} of {len(folder.folders)} folders of {folder.root}: "
            f"{listed(unnamed, 5)}; write one, folder<TAB>name, synonym"
        )
    return NamedClasses(tuple(words.values()), tuple(rows[name] for name in folder.folders))


def class_folders(words: Sequence[str]) -> tuple[str, ...]:
    """A folder for each class, called by the first of its synonyms, with "_" for blanks; no two are the same.

    Args:
        words: of each class, synonyms after commas.
    """
    folders: list[str] = []
    taken: set[str] = set()
    for name in words:
        # A hidden folder would not be listed.
        folder = _SEPARATORS.sub("_", name.split(",")[0].strip()).lstrip(".") or "_"
        while folder.casefold() in taken:
            folder += "_"
        taken.add(folder.casefold())
        folders.append(folder)
    return tuple(folders)


def write_classes(path: str | os.PathLike[str], words: Sequence[str]) -> None:
    """Write the list of classes that `name_classes` reads, for pictures in folders as `class_folders` calls them.

    Args:
        path: of the file.
        words: of each class that competes, synonyms after commas.
    """
    with replacing(path) as temporary:
        lines = (
            f"{folder}\t{' '.join(name.split())}\n" for folder, name in zip(class_folders(words), words, strict=True)
        )
        temporary.write_text("".join(lines), encoding="utf-8")


def _files_by_folder(root: Path) -> dict[str, list[str]]:
    """The photographs in each folder below the root, which is "."; links to folders are followed."""
    found = {}
    for path, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        pictures = [name for name in files if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)]
        if pictures:
            found[Path(path).relative_to(root).as_posix()] = sorted(pictures)
    return found


def _folder_words(folder: ImageFolder) -> NamedClasses:
    codes = [name for name in folder.folders if _CODE.fullmatch(name) or "/" in name]
    if codes:
        raise DatasetError(
            f"{folder.root}: folders are called {listed(codes, 3)}, which says nothing of what is in them; give a file "
            f"with lines folder<TAB>name, synonym as --classes, or --classes {IMAGENET} for ImageNet"
        )
    words = tuple(name.replace("_", " ").replace(",", " ").strip() for name in folder.folders)
    return NamedClasses(words, tuple(range(len(words))))


def _imagenet_words(folder: ImageFolder) -> NamedClasses:
    from open_clip import IMAGENET_CLASSNAMES  # takes seconds, and folders alone do not need it

    if len(folder.folders) != len(IMAGENET_CLASSNAMES):
        raise DatasetError(
            f"{folder.root}: has {len(folder.folders)} folders, and --classes {IMAGENET} names "
            f"{len(IMAGENET_CLASSNAMES)} by their order; for a part give a file with lines folder<TAB>name, synonym"
        )
    return NamedClasses(tuple(IMAGENET_CLASSNAMES), tuple(range(len(folder.folders))))


def _read_words(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as a list of classes ({error}); check the path") from error
    words: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, rest = (part.strip() for part in line.partition("\t"))
        if not name or not rest:
            raise DatasetError(f"{path}: line {number} is {line!r}; write folder<TAB>name, synonym")
        if name in words:
            raise DatasetError(f"{path}: line {number} names the folder {name} again; give each one line")
        words[name] = rest
    if not words:
        raise DatasetError(f"{path}: names no class; write lines folder<TAB>name, synonym")
    return words

"""A user's own dataset, ``folder:PATH``: photographs, label maps and a list of classes in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from escnet.data.errors import DatasetError
from escnet.data.images import label_bits
from escnet.data.pairing import Pair, pair_files
from escnet.vocabulary import Vocabulary, VocabularyError

FOLDER_PREFIX = "folder:"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")
# What "not labelled" is by the bits of a label file.
IGNORE_LABELS = {8: 255, 16: 65535}


class Folder(NamedTuple):
    """A user's dataset.

    Attributes:
        classes: the line of each id in classes.txt, with synonyms after commas.
        bits: of the first label map, which all have to have.
        ignore_label: 255 with 8-bit label maps, 65535 with 16-bit ones.
        image_root, label_root: where the files are.
        pairs: photographs and label maps.
    """

    classes: tuple[str, ...]
    bits: int
    ignore_label: int
    image_root: Path
    label_root: Path
    pairs: list[Pair]


def read_folder(name: str) -> Folder:
    """List the files of ``folder:PATH`` and read its classes.

    PATH has ``images/``, ``labels/`` with the same names (single-channel PNG or TIFF, all 8-bit with 255 = not
    labelled, or all 16-bit with 65535) and ``classes.txt``, whose line i, counted from 0, names the class of id i.

    Raises:
        DatasetError: something is missing or cannot be used.
        ImageError: the first label map cannot be read.
    """
    root = Path(name.removeprefix(FOLDER_PREFIX)).expanduser()
    expected = (
        f"expected are {root}/images/*, {root}/labels/* with the same names (PNG or TIFF, ids counted from 0), "
        f"and {root}/classes.txt with the name of id i in line i"
    )
    if not root.is_dir():
        raise DatasetError(f"{name}: there is no folder {root.absolute()}; {expected}")
    classes = _read_classes(root / "classes.txt", expected)
    pairs = pair_files(name, root / "images", IMAGE_SUFFIXES, root / "labels", LABEL_SUFFIXES, expected)
    bits = label_bits(pairs[0].labels)
    if len(classes) > IGNORE_LABELS[bits]:
        raise DatasetError(
            f"{pairs[0].labels}: 8-bit, which cannot hold the {len(classes)} classes of {root / 'classes.txt'} "
            f"and {IGNORE_LABELS[bits]} = not labelled; save the label maps as 16-bit PNG"
        )
    return Folder(classes, bits, IGNORE_LABELS[bits], root / "images", root / "labels", pairs)


def _read_classes(path: Path, expected: str) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); {expected}") from error
    names = tuple(line.strip() for line in lines)
    if not names or not all(names):
        empty = names.index("") + 1 if names else 1
        raise DatasetError(f"{path}: line {empty} is empty; {expected}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{path}: '{twice}' occurs twice; each class needs a name of its own")
    try:
        Vocabulary(names)
    except VocabularyError as error:
        raise DatasetError(f"{path}: {error}; class i is line i + 1, with synonyms after commas") from error
    return names

"""Pictures that are named as a whole: one folder for each class, as ImageNet has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from escnet.data.errors import DatasetError, listed
from escnet.data.folder import IMAGE_SUFFIXES


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures and the class of each.

    Attributes:
        files: n paths, sorted by class and name.
        labels: (n,) int64, indices of class_names.
        class_names: the names of the folders, sorted.
    """

    files: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]

    def as_in(self, other: LabelledPictures) -> np.ndarray:
        """(n,) the labels by the classes of another set.

        Raises:
            DatasetError: one of the classes is not there.
        """
        numbers = {name: number for number, name in enumerate(other.class_names)}
        strange = [name for name in self.class_names if name not in numbers]
        if strange:
            folder = Path(self.files[0]).parents[1]
            raise DatasetError(f"{folder}: the classes {listed(strange, 5)} are not in the training set")
        return np.array([numbers[name] for name in self.class_names], dtype=np.int64)[self.labels]


def read_class_folders(root: Path) -> LabelledPictures:
    """List the pictures of ``root/CLASS/*``; hidden files and files that are no pictures are left out.

    Raises:
        DatasetError: there is no such folder, or fewer than two classes with pictures.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder; expected is one folder for each class, of pictures")
    files: list[str] = []
    labels: list[int] = []
    names: list[str] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        pictures = [
            str(path)
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ]
        if pictures:
            labels += [len(names)] * len(pictures)
            files += pictures
            names.append(folder.name)
    if len(names) < 2:
        raise DatasetError(
            f"{root}: {len(names)} class(es) with pictures; expected are two or more folders, one for each class, of "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    return LabelledPictures(tuple(files), np.array(labels, dtype=np.int64), tuple(names))

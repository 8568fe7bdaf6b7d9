"""The pictures of an output folder that are segmented, read back from their reports and label maps."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from escnet.annotations.labelled_image import LabelledImage
from escnet.data.images import read_labels
from escnet.data.pages import Page, page_of_name, pages_of
from escnet.labelling.pictures import LABELS, REPORT
from escnet.vocabulary import Vocabulary


@dataclass(frozen=True)
class FinishedPicture:
    """A picture whose label map and report are there.

    Attributes:
        name: of its outputs.
        labels: file of the label map.
        picture: file of the picture.
        page: number of the page, of a TIFF of several.
        size: (height, width).
        scores: (N,) the mean probability of each class in the picture.
    """

    name: str
    labels: Path
    picture: Path
    page: int | None
    size: tuple[int, int]
    scores: np.ndarray

    def image(self, vocabulary: Vocabulary) -> LabelledImage:
        """The label map with its words.

        Raises:
            ImageError: its file cannot be read.
        """
        labels = read_labels(self.labels)
        return LabelledImage(labels, vocabulary.class_names, self.scores, bool(vocabulary.background))

    def source(self) -> Path | Page:
        """The picture, or its page, to be read."""
        pages = pages_of(self.picture)
        return pages[self.page - 1] if self.page and self.page <= len(pages) else self.picture


@dataclass(frozen=True)
class FinishedFolder:
    """What is finished.

    Attributes:
        pictures: in the order of their names.
        others: names of those that were segmented otherwise, or have no label map as PNG.
    """

    pictures: list[FinishedPicture]
    others: list[str]

    def relative(self) -> dict[str, str]:
        """By name of the outputs, the path of each picture below the folder of all, with "/"."""
        files = {finished.name: Path(os.path.abspath(finished.picture)) for finished in self.pictures}
        common = Path(os.path.commonpath([file.parent for file in files.values()])) if files else Path()
        return {name: file.relative_to(common).as_posix() for name, file in files.items()}


def finished_pictures(output: Path, vocabulary: Vocabulary, origin: Mapping[str, Any]) -> FinishedFolder:
    """What is finished in a folder.

    Args:
        output: the folder.
        vocabulary: the words; a picture with other ones was segmented otherwise.
        origin: likewise, the configuration, the weights and so on, as in a report.
    """
    ours = {
        **origin,
        "class_names": list(vocabulary.class_names),
        "background": list(vocabulary.background),
        "templates": list(vocabulary.templates),
    }
    found, others = [], []
    for report in sorted(output.glob(f"*{REPORT}")):
        name = report.name.removesuffix(REPORT)
        labels = output / f"{name}{LABELS}"
        contents = _read(report)
        if contents is None:
            continue
        if not labels.is_file() or any(key not in contents or contents[key] != value for key, value in ours.items()):
            others.append(name)
            continue
        scores = np.zeros(vocabulary.num_classes)
        for entry in contents["classes"]:
            scores[entry["id"]] = entry["mean_score"]
        picture, page = page_of_name(contents["image"])
        size = (contents["height"], contents["width"])
        found.append(FinishedPicture(name, labels, picture, page, size, scores))
    return FinishedFolder(found, others)


def _read(report: Path) -> dict[str, Any] | None:
    """The contents of a report; None of a file that is none."""
    try:
        contents = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_report = isinstance(contents, dict) and {"image", "classes", "height", "width", "class_names"} <= set(contents)
    return contents if is_report else None

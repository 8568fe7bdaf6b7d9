"""What is segmented in an output folder, read back from reports and label maps: pictures, and the frames of films."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from escnet.annotations.label_runs import LabelRuns
from escnet.annotations.labelled_image import LabelledImage
from escnet.data.images import read_labels
from escnet.data.pages import Page, page_of_name, pages_of
from escnet.labelling.band_files import read_columns
from escnet.labelling.film_frames import FinishedFilm
from escnet.labelling.pictures import FRAME_LABELS, LABEL_TIFF, LABELS, REPORT
from escnet.vocabulary import Vocabulary

# By which a COCO file is known to be made here; it may be too large to be read for a look at it.
COCO_MARK = "Masks that escnet predicted"
COCO_BEGINNING = f'{{"info": {json.dumps({"description": COCO_MARK})}'


@dataclass(frozen=True)
class FinishedPicture:
    """A picture, or a frame of a film, whose label map and report are there.

    Attributes:
        name: of its outputs; of a frame, that of its film, "/" and its number.
        labels: file of the label map.
        picture: file of the picture.
        root: the folder from which on its path is told, if it is alone.
        size: (height, width).
        scores: (N,) the mean probability of each class in the picture.
        about: what is said of it beside its file: the page of a TIFF, the number and the time of a frame.
        is_large: it was segmented in tiles, and its label map may be too large for memory.
    """

    name: str
    labels: Path
    picture: Path
    root: Path
    size: tuple[int, int]
    scores: np.ndarray
    about: Mapping[str, Any] = field(default_factory=dict)
    is_large: bool = False

    def image(self, vocabulary: Vocabulary) -> LabelledImage:
        """The label map with its words.

        Raises:
            ImageError: its file cannot be read.
        """
        labels = read_labels(self.labels)
        return LabelledImage(labels, vocabulary.class_names, self.scores, bool(vocabulary.background))

    def runs(self) -> LabelRuns:
        """The label map of a large picture.

        Raises:
            ImageError: its file cannot be read.
        """
        return LabelRuns.of_bands(read_columns(self.labels), self.size)

    def source(self) -> Path | Page:
        """The picture, or its page, to be read."""
        pages, page = pages_of(self.picture), self.about.get("page")
        return pages[page - 1] if page and page <= len(pages) else self.picture


@dataclass(frozen=True)
class FinishedFolder:
    """What is finished.

    Attributes:
        pictures: in the order of their names, each frame of a film by itself.
        films: of these frames.
        others: names of those that were segmented otherwise, or have no label map.
    """

    pictures: list[FinishedPicture]
    films: list[FinishedFilm]
    others: list[str]

    def without(self, name: str) -> FinishedFolder:
        """The same without a film."""
        pictures = [picture for picture in self.pictures if not picture.name.startswith(f"{name}/")]
        return FinishedFolder(pictures, [film for film in self.films if film.name != name], self.others)

    def small(self) -> FinishedFolder:
        """The same without what was segmented in tiles."""
        return FinishedFolder([p for p in self.pictures if not p.is_large], self.films, self.others)

    def relative(self) -> dict[str, str]:
        """By name of the outputs, the path of each picture below the folder of all, with "/"."""
        files = {finished.name: Path(os.path.abspath(finished.picture)) for finished in self.pictures}
        roots = {os.path.abspath(finished.root) for finished in self.pictures}
        common = Path(os.path.commonpath(roots)) if roots else Path()
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
    pictures: list[FinishedPicture] = []
    films: list[FinishedFilm] = []
    others = []
    for report in sorted(output.glob(f"*{REPORT}")):
        contents = _read(report)
        if contents is None:
            continue
        is_ours = all(key in contents and contents[key] == value for key, value in ours.items())
        film = FinishedFilm.of_report(report, contents) if "frames" in contents else None
        found = list(_frames(film, contents) if film else _picture(report, contents)) if is_ours else []
        if not found or not all(picture.labels.is_file() for picture in found):
            others.append(report.name.removesuffix(REPORT))
            continue
        pictures += found
        films += [film] if film else []
    return FinishedFolder(pictures, films, others)


def _picture(report: Path, contents: Mapping[str, Any]) -> Iterator[FinishedPicture]:
    name, is_large = report.name.removesuffix(REPORT), "tiling" in contents
    labels = report.with_name(f"{name}{LABEL_TIFF if is_large else LABELS}")
    picture, page = page_of_name(contents["image"])
    size, scores = (contents["height"], contents["width"]), _mean_scores(contents)
    about = {} if page is None else {"page": page}
    yield FinishedPicture(name, labels, picture, picture.parent, size, scores, about, is_large)


def _frames(film: FinishedFilm, contents: Mapping[str, Any]) -> Iterator[FinishedPicture]:
    ids = {name: number for number, name in enumerate(contents["class_names"])}
    size = contents["height"], contents["width"]
    for entry in contents["frames"]:
        name = f"{film.name}/{entry['index']:06d}"
        labels = film.report.with_name(f"{film.name}{FRAME_LABELS}") / f"{entry['index']:06d}.png"
        scores = _mean_scores(contents)
        for word, score in entry.get("mean_scores", {}).items():
            scores[ids[word]] = score
        about = {"film": film.path.name, "frame": entry["index"], "time": entry["time"]}
        yield FinishedPicture(name, labels, film.frame(entry["index"]), film.folder.parent, size, scores, about)


def _mean_scores(contents: Mapping[str, Any]) -> np.ndarray:
    """(N,) the mean probability of each class, as a report has it."""
    scores = np.zeros(len(contents["class_names"]))
    for entry in contents["classes"]:
        scores[entry["id"]] = entry["mean_score"]
    return scores


def _read(report: Path) -> dict[str, Any] | None:
    """The contents of a report; None of a file that is none."""
    try:
        with report.open(encoding="utf-8") as file:
            if file.read(len(COCO_BEGINNING)) == COCO_BEGINNING:
                return None
        contents = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_report = isinstance(contents, dict) and {"image", "classes", "height", "width", "class_names"} <= set(contents)
    return contents if is_report else None

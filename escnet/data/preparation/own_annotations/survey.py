"""What label maps hold: the images and pixels of each class, and what is doubtful about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from escnet.data.errors import DatasetError, listed
from escnet.data.preparation.own_annotations.annotated import AnnotationSet

TRAIN, VALIDATION = "train", "val"
# What only one class is told from.
_FEW = 2


class Survey(NamedTuple):
    """What is in one label map: pixels by id, and the numbers of `Painted`."""

    pixels: dict[int, int]
    lost: int
    cut: int
    overlapped: int


class ClassCount(NamedTuple):
    """What a class has: its name, and by part of the dataset its images and pixels. Ignored pixels count as a class."""

    name: str
    images: dict[str, int]
    pixels: dict[str, int]


def count_classes(
    surveys: Sequence[Survey], parts: Sequence[str], names: Sequence[str], ignore_label: int
) -> list[ClassCount]:
    """The count of each class, and last of the ignored pixels.

    Args:
        surveys: of the label maps.
        parts: the part of the dataset that each is in.
        names: of the classes, by id.
        ignore_label: id of ignored pixels.
    """
    images: Counter[tuple[int, str]] = Counter()
    pixels: Counter[tuple[int, str]] = Counter()
    for survey, part in zip(surveys, parts, strict=True):
        for number, count in survey.pixels.items():
            images[number, part] += 1
            pixels[number, part] += count
    present = sorted(set(parts))
    rows = [*enumerate(names), (ignore_label, "(ignored)")]
    return [
        ClassCount(name, {part: images[row, part] for part in present}, {part: pixels[row, part] for part in present})
        for row, name in rows
    ]


def find_doubts(annotations: AnnotationSet, surveys: Sequence[Survey], counts: Sequence[ClassCount]) -> list[str]:
    """What the label maps themselves show.

    Raises:
        DatasetError: not a pixel is labelled.
    """
    classes = counts[:-1]
    if not any(sum(one.pixels.values()) for one in classes):
        raise DatasetError(f"{annotations.path}: not a pixel is labelled; look at its regions and sizes")
    lost, cut = sum(survey.lost for survey in surveys), sum(survey.cut for survey in surveys)
    overlapped = [survey.overlapped for survey in surveys if survey.overlapped]
    rule = "the smaller one is seen" if annotations.smaller_on_top else "the later or higher one is seen"
    absent = [one.name for one in classes if not sum(one.pixels.values())]
    unseen = [one.name for one in classes if sum(one.pixels.values()) and TRAIN in one.pixels and not one.pixels[TRAIN]]
    lines = {
        f"{lost} regions have no pixel in their picture: outside of it, or too small": lost,
        f"{cut} regions reach beyond their picture, and are cut": cut,
        f"in {len(overlapped)} images regions of two classes overlap, on {sum(overlapped)} pixels; {rule}": overlapped,
        f"{len(absent)} classes have not a pixel: {listed(absent, 10)}": absent,
        f"{len(unseen)} classes are in {VALIDATION} alone: {listed(unseen, 10)}; try another --seed": unseen,
        "only one class is labelled, and nothing else to tell it from; --background-name names the rest": (
            len(classes) < _FEW
        ),
    }
    return [line for line, is_so in lines.items() if is_so]

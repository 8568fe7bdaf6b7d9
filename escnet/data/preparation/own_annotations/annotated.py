"""Annotated images in one form, whatever tool they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from escnet.data.errors import DatasetError
from escnet.data.preparation.own_annotations.shapes import Shape, Size

UNLABELLED = -1


class Region(NamedTuple):
    """One annotated region.

    Attributes:
        label: name of its class.
        shape: what it covers.
        order: regions of a higher one lie on top.
    """

    label: str
    shape: Shape
    order: int = 0


class LabelPicture(Protocol):
    """A file with the class of every pixel."""

    path: Path

    def labels(self) -> np.ndarray:
        """The (H,W) int32 places of the classes in the list of all, `UNLABELLED` where there is none.

        Raises:
            ImageError: the file cannot be read, or has a value that stands for nothing.
        """


class AnnotatedImage(NamedTuple):
    """An image of the annotations.

    Attributes:
        file: the photograph, as the annotations name it.
        place: of the annotations, for messages.
        size: (height, width) that was annotated; None where it is not said.
        regions: in the order of the file.
        picture: instead of regions.
        suffixed: whether `file` has the suffix of the photograph.
    """

    file: str
    place: str
    size: Size | None
    regions: tuple[Region, ...] = ()
    picture: LabelPicture | None = None
    suffixed: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether nothing is annotated in it."""
        return not self.regions and self.picture is None


@dataclass(frozen=True)
class AnnotationSet:
    """All that annotations say.

    Attributes:
        path: file or folder.
        files: whose contents decide the label maps.
        names: of the classes.
        images: those that were annotated, also in vain.
        warnings: what is doubtful.
        smaller_on_top: which of two regions is seen where they overlap, if they are of one order: the smaller one, or
            the later one.
    """

    path: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    warnings: tuple[str, ...] = field(default=())
    smaller_on_top: bool = False


def counted(counts: dict[str, int]) -> str:
    """Kinds with their numbers: "choices 3, keypointlabels 1"."""
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))


def refuse_twice(path: Path, what: str, values: Sequence[str], remedy: str) -> None:
    """See that no value occurs twice, and none is empty.

    Raises:
        DatasetError: one does.
    """
    if not all(values):
        raise DatasetError(f"{path}: {what} number {list(values).index('') + 1} has no name; {remedy}")
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise DatasetError(f"{path}: {what} '{value}' occurs twice; {remedy}")
        seen.add(value)

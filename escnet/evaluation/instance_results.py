"""Masks of objects image by image, streamed to disk, so that an evaluation that was killed goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from escnet.evaluation.runs.image_results import ResultsError
from escnet.evaluation.runs.line_file import LineFile


class ObjectMask(NamedTuple):
    """The mask of one box.

    Attributes:
        image, category: ids.
        segmentation: compressed run lengths.
        score: by which average precision orders masks.
        iou: with the annotated mask, in 0..1; None for a detected box.
    """

    image: int
    category: int
    segmentation: dict[str, Any]
    score: float
    iou: float | None

    def to_coco(self) -> dict[str, Any]:
        """An entry of COCO's format of results."""
        return {
            "image_id": self.image,
            "category_id": self.category,
            "segmentation": self.segmentation,
            "score": self.score,
        }


class InstanceResults:
    """The masks of one model on one set of images: one line of JSON an image.

    Args:
        path: of the file; None to keep all in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else LineFile(path)
        self._kept: list[tuple[int, Sequence[ObjectMask]]] = []
        if self._file is not None:
            self._file.repair()

    def add(self, image: int, masks: Sequence[ObjectMask], seconds: float) -> None:
        """Keep the masks of an image, which took the model so long.

        Raises:
            OSError: they could not be written; those of earlier images stand.
        """
        if self._file is None:
            self._kept.append((image, masks))
            return
        objects = [[mask.category, mask.segmentation, mask.score, mask.iou] for mask in masks]
        self._file.add({"image": image, "seconds": round(seconds, 4), "objects": objects}, image)

    def is_empty(self) -> bool:
        """Whether no image has a result."""
        return not self._kept if self._file is None else self._file.is_empty()

    def images(self) -> set[int]:
        """The ids of the images that have a result.

        Raises:
            ResultsError: a line is damaged, or an image occurs twice.
        """
        return {image for image, _ in self._lines()}

    def masks(self) -> Iterator[ObjectMask]:
        """All masks, in the order in which images were added.

        Raises:
            ResultsError: a line is damaged, or an image occurs twice.
        """
        for _, masks in self._lines():
            yield from masks

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _lines(self) -> Iterator[tuple[int, Sequence[ObjectMask]]]:
        if self._file is None:
            yield from self._kept
            return
        seen = set()
        for line, place in self._file:
            try:
                fields = json.loads(line)
                image = fields["image"]
                masks = [ObjectMask(image, *values) for values in fields["objects"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ResultsError(
                    f"{place}: is damaged ({error}); delete it, and its image is evaluated again"
                ) from None
            if image in seen:
                raise ResultsError(f"{place}: a second result of the image {image}; delete it, or use --restart")
            seen.add(image)
            yield image, masks

"""Results of an evaluation image by image, streamed to disk, so that one that was killed goes on where it was."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from escnet.evaluation.confusion import ConfusionMatrix
from escnet.evaluation.runs.line_file import LineFile
from escnet.evaluation.scored_classes import ScoredClasses, is_scored

_CONSIDERED = "words_considered"


class ResultsError(ValueError):
    """Results on disk that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class ImageResult:
    """What was counted in one image.

    Attributes:
        image: its `image_id`.
        height, width: of its label map, in pixels.
        seconds: the model took.
        entries: (M, 3) int64 rows of true class, predicted class, pixels; see `ConfusionMatrix.entries`.
        truth: CRC-32 of the label map, by which two evaluations can tell whether they had the same.
        words_considered: how many rows of the vocabulary competed for the pixels in the end; None where nobody knows.
    """

    image: str
    height: int
    width: int
    seconds: float
    entries: np.ndarray
    truth: int
    words_considered: int | None = None

    @classmethod
    def count(
        cls,
        image: str,
        prediction: np.ndarray,
        truth: np.ndarray,
        num_classes: int,
        ignore_label: int,
        seconds: float = 0.0,
        words_considered: int | None = None,
    ) -> ImageResult:
        """Count the pixels of a prediction.

        Args:
            image: its id.
            prediction: (H, W) class ids.
            truth: (H, W) class ids or the ignore label.

        Raises:
            ValueError: the maps differ in size or hold ids out of range.
        """
        confusion = ConfusionMatrix(num_classes, ignore_label)
        confusion.update(prediction, truth)
        checksum = zlib.crc32(np.ascontiguousarray(truth.astype("<u2")))
        return cls(image, *truth.shape, seconds, confusion.entries(), checksum, words_considered)

    def miou(self, scored: ScoredClasses = None) -> float:
        """Mean IoU over the scored classes in this image's truth; NaN if there are none."""
        truth, predicted, pixels = self.entries.T
        size = int(self.entries[:, :2].max(initial=-1)) + 1
        union = np.bincount(truth, pixels, size) + np.bincount(predicted, pixels, size)
        hits = np.bincount(truth, pixels * (truth == predicted), size)
        present = np.unique(truth)
        present = present[is_scored(present, scored)]
        return float((hits[present] / (union - hits)[present]).mean()) if len(present) else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of the pixels that are right; NaN if all are ignored."""
        truth, predicted, pixels = self.entries.T
        return float(pixels[truth == predicted].sum() / pixels.sum()) if len(pixels) else float("nan")


class ImageResults:
    """The results of one model on one dataset: one line of JSON an image, one file a process, in a folder.

    A line is written in one piece; the rest of one that a kill cut off is removed when the folder is opened again.

    Args:
        folder: of the evaluation; made when the first result is added.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._file: LineFile | None = None

    def files(self) -> list[Path]:
        """The files that hold results."""
        return sorted(self.folder.glob("images.*.jsonl"))

    def repair(self) -> None:
        """Remove lines that a kill cut off. To be called by one process, before any reads or adds."""
        for file in self.files():
            LineFile(file).repair()

    def is_empty(self) -> bool:
        """Whether no image has a result."""
        return all(LineFile(file).is_empty() for file in self.files())

    def add(self, result: ImageResult, rank: int = 0) -> None:
        """Append one result to the file of this process.

        Raises:
            OSError: it could not be written, for want of space as a rule; what was written of it is removed again.
        """
        if self._file is None:
            self._file = LineFile(self.folder / f"images.{rank}.jsonl")
        line = {
            "image": result.image,
            "height": result.height,
            "width": result.width,
            "seconds": round(result.seconds, 4),
            "truth": result.truth,
            "entries": result.entries.tolist(),
        } | ({} if result.words_considered is None else {_CONSIDERED: result.words_considered})
        self._file.add(line, result.image)

    def close(self) -> None:
        """Close the file of this process."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __iter__(self) -> Iterator[ImageResult]:
        """Read the results, one at a time.

        Raises:
            ResultsError: a line is damaged, or an image occurs twice.
        """
        seen = set()
        for file in self.files():
            for line, place in LineFile(file):
                result = _parse(line, place)
                if result.image in seen:
                    raise ResultsError(
                        f"{place}: a second result of the image '{result.image}'; two evaluations "
                        f"wrote to {self.folder} at a time. Evaluate again into another folder"
                    )
                seen.add(result.image)
                yield result

    def images(self) -> set[str]:
        """The ids of the images that have a result."""
        return {result.image for result in self}

    def added_to(self, total: ConfusionMatrix) -> Iterator[ImageResult]:
        """Read the results, one at a time, and add each to a matrix.

        Raises:
            ResultsError: the results cannot be read, or are of other classes.
        """
        for result in self:
            try:
                total.add_entries(result.entries)
            except ValueError as error:
                raise ResultsError(f"{self.folder}, image '{result.image}': {error}") from error
            yield result

    def confusion(self, num_classes: int) -> ConfusionMatrix:
        """The sum over all images, the same in whatever order and by how many processes they were counted.

        Raises:
            ResultsError: the results cannot be read, or are of other classes.
        """
        total = ConfusionMatrix(num_classes, ignore_label=-1)
        for _ in self.added_to(total):
            pass
        return total


def _parse(line: str, place: str) -> ImageResult:
    try:
        fields = json.loads(line)
        entries = np.array(fields["entries"], dtype=np.int64).reshape(-1, 3)
        values = [fields[key] for key in ("image", "height", "width", "seconds")]
        # Evaluations of before it was noted do not say it, nor do all models.
        considered = fields.get(_CONSIDERED)
        return ImageResult(*values, entries, fields["truth"], None if considered is None else int(considered))
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{place}: is damaged ({error}); delete it, and its image is evaluated again") from None

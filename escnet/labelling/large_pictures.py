"""Labelling pictures that are too large for memory, tile by tile: label maps, scores, overlays and reports."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from escnet.annotations.georeference import class_tags, no_data_id
from escnet.drawing.overlay import overlay
from escnet.labelling.band_files import BandWriter, copy_as_png
from escnet.labelling.engine import LabellingTask, Outcome
from escnet.labelling.finished import origin_of
from escnet.labelling.in_turn import label_in_turn
from escnet.labelling.large_files import LargePicture, small_cache
from escnet.labelling.pictures import LABEL_TIFF, LABELS, OUTPUT_SUFFIXES, OVERLAY, REPORT, SCORE_TIFF
from escnet.labelling.tiles import LabelBand, TileGrid, Tiling, segment_tiles, tile_grid
from escnet.predictor import Segmenter
from escnet.segmentation_result import classes_present

# Pixels of an overlay's longer side.
OVERLAY_SIDE = 2400
# A probability of 1 in a file of scores.
SCORE_STEPS = 255


@dataclass(frozen=True)
class LargeTask:
    """What is to be done with pictures that are too large for memory.

    Attributes:
        labelling: pictures, words and folder as for `label_pictures`; with `save_scores`, the probability of each
            pixel's label is written.
        tiling: how the pictures are cut.
        label_png: also write the label map as a PNG.
    """

    labelling: LabellingTask
    tiling: Tiling
    label_png: bool = False

    @property
    def wanted(self) -> list[str]:
        """The ends of the names of what is written of each picture, the report last."""
        scores, png = [SCORE_TIFF] * self.labelling.save_scores, [LABELS] * self.label_png
        return [OVERLAY, LABEL_TIFF, *png, *scores, REPORT]

    def origin(self, path: Path) -> dict[str, Any]:
        """How the labels of a picture come about, for its report."""
        tiling = {"tile": self.tiling.tile, "overlap": self.tiling.overlap, "falloff": self.tiling.falloff}
        return origin_of(path, self.labelling.origin, self.labelling.vocabulary) | {"tiling": tiling}


def label_large_pictures(segmenter: Segmenter, task: LargeTask, say: Callable[[str], None]) -> Outcome:
    """Segment pictures in turn, each tile by tile; one that cannot be read or written is noted, and the others go on.

    What is finished is skipped; a picture at which an earlier call was stopped begins anew.

    Args:
        segmenter: with the model.
        task: what to do.
        say: is told a line for each picture, and for each tenth of one.

    Raises:
        LabellingError: the output folder has results that were made otherwise, or files that are no results.
        VocabularyError: a name that is too long for the text encoder.
        DiskFullError: there is no room for an output; what was finished stays, and the same call goes on.
    """

    def label(path: Path, stem: Path, tell: Callable[[str], None]) -> str:
        return _label_picture(segmenter, path, stem, task, tell)

    return label_in_turn(task.labelling, task.wanted, task.origin, label, say)


def _label_picture(segmenter: Segmenter, path: Path, stem: Path, task: LargeTask, say: Callable[[str], None]) -> str:
    """Write the files of one picture, aside until all are complete; returns what to say of it."""
    labelling, start = task.labelling, time.perf_counter()
    with (
        small_cache(path),
        LargePicture(path, labelling.value_range) as picture,
        tempfile.TemporaryDirectory(prefix=".labelling-", dir=labelling.output) as folder,
    ):
        made = Path(folder) / stem.name
        grid = tile_grid(segmenter, picture.size, labelling.vocabulary, task.tiling)
        outputs, tenth = _Outputs(made, picture, task), 0
        try:
            for band in segment_tiles(segmenter, picture, labelling.vocabulary, task.tiling, grid):
                outputs.write(band)
                share = 10 * (band.top + len(band.labels)) // picture.size[0]
                if tenth < share < 10:
                    say(f"{path}  {10 * share} %  {time.perf_counter() - start:.0f} s")
                tenth = share
        finally:
            outputs.close()
        outputs.draw(f"{made}{OVERLAY}")
        if task.label_png:
            copy_as_png(Path(f"{made}{LABEL_TIFF}"), Path(f"{made}{LABELS}"))
        report = task.origin(path) | _report(grid, outputs, labelling) | {"seconds": time.perf_counter() - start}
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        Path(f"{made}{REPORT}").write_text(text, encoding="utf-8")
        Path(f"{stem}{REPORT}").unlink(missing_ok=True)
        for suffix in set(OUTPUT_SUFFIXES).difference(task.wanted) if labelling.overwrite else ():
            Path(f"{stem}{suffix}").unlink(missing_ok=True)
        for suffix in task.wanted:
            os.replace(f"{made}{suffix}", f"{stem}{suffix}")
    largest = ", ".join(f"{entry['name']} {entry['fraction']:.1%}" for entry in report["classes"][:3])
    return f"{report['width']}x{report['height']}  {grid.count} tiles  {largest}"


def _report(grid: TileGrid, outputs: _Outputs, labelling: LabellingTask) -> dict[str, Any]:
    words = labelling.vocabulary
    return {
        "height": grid.size[0],
        "width": grid.size[1],
        "words": len(words.rows),
        "tiles": grid.count,
        "tile_height": grid.tile[0],
        "tile_width": grid.tile[1],
        "cell_pixels": list(grid.cell),
        "held_bytes": grid.held_bytes(len(words.rows)),
        "overlay_pixels": outputs.factor,
        **({} if outputs.no_data is None else {"no_data": outputs.no_data}),
        "classes": classes_present(outputs.areas, outputs.totals, words.class_names),
    }


class _Outputs:
    """The files of one picture while they are written, the areas of its classes, and a picture of reduced size."""

    def __init__(self, made: Path, picture: LargePicture, task: LargeTask) -> None:
        self.class_names = task.labelling.vocabulary.class_names
        self.picture, place, classes = picture, picture.georeference, len(self.class_names)
        self.no_data = no_data_id(classes) if place and picture.has_empty else None
        dtype = "uint8" if max(classes - 1, self.no_data or 0) < 256 else "uint16"
        path, tags = Path(f"{made}{LABEL_TIFF}"), class_tags(self.class_names)
        self.labels = BandWriter(path, picture.size, dtype, place, no_data=self.no_data, tags=tags)
        self.scores = None
        if task.labelling.save_scores:
            self.scores = BandWriter(Path(f"{made}{SCORE_TIFF}"), picture.size, "uint8", place, 1 / SCORE_STEPS)
        self.areas, self.totals = np.zeros(len(self.class_names), np.int64), np.zeros(len(self.class_names))
        self.factor = -(-max(picture.size) // OVERLAY_SIDE)
        self._pending: LabelBand | None = None
        # Made at once: pieces that are kept from each band would lie between what is freed, which the system then does
        # not get back.
        shape = tuple(-(-side // self.factor) for side in picture.size)
        self._reduced = LabelBand(
            0, np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty((*shape, 3), np.uint8)
        )
        self._reduced_rows = 0

    def write(self, band: LabelBand) -> None:
        """Append a band to all of them."""
        labels = band.labels
        if self.no_data is not None:
            empty = self.picture.empty_rows(band.top, band.top + len(labels))
            labels = np.where(empty, self.no_data, labels)
        self.labels.write(labels)
        if self.scores is not None:
            self.scores.write(np.round(SCORE_STEPS * band.scores))
        count, flat = len(self.class_names), band.labels.ravel()
        self.areas += np.bincount(flat, minlength=count)
        self.totals += np.bincount(flat, band.scores.ravel(), minlength=count)
        if self._pending is not None:
            band = LabelBand(0, *map(np.concatenate, zip(self._pending[1:], band[1:], strict=True)))
        self._pending = band
        self._reduce(len(self._pending.labels) // self.factor * self.factor)

    def close(self) -> None:
        """End the files."""
        for writer in (self.labels, self.scores):
            if writer is not None:
                writer.close()

    def draw(self, path: str) -> None:
        """Write the overlay: of each block of `factor` by `factor` pixels the mean colour, and its middle's label."""
        if self._pending is not None and len(self._pending.labels):
            self._reduce(len(self._pending.labels))
        _, labels, scores, pixels = self._reduced
        overlay(pixels, labels, self.class_names, scores).save(path)

    def _reduce(self, rows: int) -> None:
        if not rows:
            return
        factor, (_, *arrays) = self.factor, self._pending
        here = [array[:rows] for array in arrays]
        missing = (-rows % factor, -here[0].shape[1] % factor)
        sides = [((0, missing[0]), (0, missing[1]), *([(0, 0)] * (array.ndim - 2))) for array in here]
        labels, scores, pixels = (np.pad(a, s, "edge") for a, s in zip(here, sides, strict=True))
        middle = np.s_[factor // 2 :: factor, factor // 2 :: factor]
        blocks = pixels.reshape(len(pixels) // factor, factor, pixels.shape[1] // factor, factor, 3)
        start, stop = self._reduced_rows, self._reduced_rows + len(blocks)
        self._reduced.labels[start:stop], self._reduced.scores[start:stop] = labels[middle], scores[middle]
        self._reduced.pixels[start:stop] = np.round(blocks.mean(axis=(1, 3), dtype=np.float32))
        self._reduced_rows = stop
        self._pending = LabelBand(0, *(array[rows:] for array in arrays))

"""The label formats of the benchmarks as published, read as train ids."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.io
from pycocotools import mask as run_lengths
from scipy.io.matlab import MatReadError

from escnet.data.class_tables import ClassRow
from escnet.data.errors import DatasetError, listed
from escnet.data.images import ImageError, image_mode, read_image, read_labels

VOID_SEGMENT = 0
_UNKNOWN = -1
_DEPTHS = {"RGB": "colours", "RGBA": "colours", "I": "16 or 32 bits", "1": "1 bit"}
# What scipy's reader of MATLAB files raises on damaged data.
_MAT_ERRORS = (MatReadError, OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, EOFError)


class Task(NamedTuple):
    """One label map to be made.

    Attributes:
        image: the photograph.
        source: the file that holds its published labels.
        output: the label map to write.
        photograph: the photograph to write, where it is prepared too.
        detail: the annotations of this image alone, where the source holds those of all.
    """

    image: str
    source: str
    output: str
    photograph: str | None = None
    detail: Any = None


@dataclass(frozen=True)
class IdTable:
    """The train id of each id of a published format.

    Attributes:
        train_ids: train id by raw id; the last entry is for all raw ids beyond. -1 = there is no such id.
        expected: what the files should hold, for error messages.
    """

    train_ids: np.ndarray
    expected: str

    @classmethod
    def of(
        cls,
        classes: Mapping[int, int],
        ignored: Iterable[int],
        ignore_label: int,
        expected: str,
        others: int = _UNKNOWN,
    ) -> IdTable:
        """A table from train id by raw id, the raw ids that are ignored, and what all `others` become."""
        table = {**dict.fromkeys(ignored, ignore_label), **classes}
        train_ids = np.full(max(table) + 2, others, dtype=np.int32)
        train_ids[list(table)] = list(table.values())
        return cls(train_ids, expected)

    def apply(self, raw: np.ndarray, path: str) -> np.ndarray:
        """The train ids of an (H,W) array of raw ids, as (H,W) int32.

        Raises:
            ImageError: an id is not in the table; `path` is the file to be named.
        """
        places = raw
        if raw.dtype.kind != "u":
            places = raw.astype(np.int64)
            places[places < 0] = len(self.train_ids)
        train_ids = np.take(self.train_ids, places, mode="clip")
        if train_ids.min() == _UNKNOWN:
            unknown = np.unique(raw[train_ids == _UNKNOWN]).tolist()
            raise ImageError(f"{path}: unknown ids {listed(unknown, 8)}; expected {self.expected}")
        return train_ids


def train_ids_by_raw_id(classes: Sequence[ClassRow]) -> dict[int, int]:
    """The train id of each raw id of a class table."""
    return {row.raw_id: row.train_id for row in classes}


def read_grey(task: Task, table: IdTable) -> np.ndarray:
    """The train ids of an 8-bit PNG of ids, grey or with a palette."""
    mode = image_mode(task.source)
    if mode not in ("L", "P"):
        depth = "16 bits" if mode.startswith("I;16") else _DEPTHS.get(mode, "another kind of pixel")
        raise ImageError(
            f"{task.source}: has {depth} (mode {mode}) where 8-bit ids are expected: {table.expected}; "
            f"take the file as published, not one that a tool has converted"
        )
    return table.apply(read_labels(task.source), task.source)


def read_ade20k_full(task: Task, table: IdTable) -> np.ndarray:
    """The train ids of a ``_seg.png`` of ADE20K, whose id is R // 10 * 256 + G; B counts the instances."""
    colors = _read_colors(task.source, table.expected).astype(np.int32)
    return table.apply(colors[..., 0] // 10 * 256 + colors[..., 1], task.source)


def read_panoptic(task: Task, train_ids: Mapping[int, int], ignore_label: int, expected: str) -> np.ndarray:
    """The train ids of COCO's panoptic PNG; the detail of the task is the category id by segment id."""
    colors = _read_colors(task.source, expected)
    try:
        return panoptic_labels(colors, task.detail, train_ids, ignore_label)
    except DatasetError as error:
        raise DatasetError(f"{task.source}: {error}; take PNG and json of the same release") from error


def panoptic_labels(
    colors: np.ndarray, segments: Mapping[int, int], train_ids: Mapping[int, int], ignore_label: int
) -> np.ndarray:
    """The (H,W) int32 train ids of a panoptic PNG.

    Args:
        colors: (H,W,3) uint8 RGB, of which the segment id is R + 256 G + 65536 B; 0 is void.
        segments: category id by segment id.
        train_ids: train id by category id.
        ignore_label: what void becomes.

    Raises:
        DatasetError: the map has a segment that is not listed, or a category is unknown.
    """
    numbers, places = np.unique(colors.astype(np.int64) @ np.array([1, 256, 65536]), return_inverse=True)
    unlisted = [number for number in numbers.tolist() if number != VOID_SEGMENT and number not in segments]
    if unlisted:
        raise DatasetError(f"the segments [{listed(unlisted, 5)}] of the PNG are not listed in the json")
    unknown = sorted(set(segments.values()) - train_ids.keys())
    if unknown:
        raise DatasetError(f"the json uses the categories [{listed(unknown, 5)}], which are unknown")
    table = [ignore_label if number == VOID_SEGMENT else train_ids[segments[number]] for number in numbers.tolist()]
    return np.array(table, dtype=np.int32)[places].reshape(colors.shape[:2])


def read_context_mat(task: Task, table: IdTable) -> np.ndarray:
    """The train ids of Pascal Context's ``ID.mat``, key ``LabelMap``, of any numeric type."""
    try:
        contents = scipy.io.loadmat(task.source)
    except (*_MAT_ERRORS, zlib.error, struct.error) as error:
        raise ImageError(
            f"{task.source}: cannot be read as a MATLAB file ({error}); unpack it again, expected {table.expected}"
        ) from error
    if "LabelMap" not in contents:
        keys = listed((key for key in contents if not key.startswith("__")), 5) or "nothing"
        raise ImageError(f"{task.source}: has {keys} and no LabelMap; expected {table.expected}")
    raw = contents["LabelMap"]
    if raw.ndim != 2 or raw.size == 0 or raw.dtype.kind not in "uif" or not (raw == np.rint(raw)).all():
        raise ImageError(
            f"{task.source}: LabelMap is {raw.dtype} of shape {raw.shape}, not (H,W) whole numbers; "
            f"expected {table.expected}"
        )
    return table.apply(raw, task.source)


def read_context_masks(task: Task, table: IdTable) -> np.ndarray:
    """The train ids of the masks of Pascal Context's json, of which later ones lie on top.

    The detail of the task is the (H,W) of the image and a list of (category id, run lengths).
    """
    size, annotations = task.detail
    raw = np.zeros(size, dtype=np.int32)
    for category, segmentation in annotations:
        if not isinstance(segmentation, dict) or tuple(segmentation.get("size", ())) != tuple(size):
            raise ImageError(
                f"{task.source}: a mask of {task.image} is not given in run lengths of {size[0]}x{size[1]} pixels; "
                f"take trainval_merged.json as published"
            )
        if isinstance(segmentation["counts"], list):
            segmentation = run_lengths.frPyObjects(segmentation, *size)
        raw[run_lengths.decode(segmentation).astype(bool)] = category
    return table.apply(raw, f"{task.source}, {os.path.basename(task.image)}")


def _read_colors(path: str, expected: str) -> np.ndarray:
    mode = image_mode(path)
    if mode != "RGB":
        raise ImageError(f"{path}: has the mode {mode} where 8-bit RGB is expected: {expected}")
    return read_image(path)

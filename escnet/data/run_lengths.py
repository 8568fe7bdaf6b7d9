"""Masks as the run lengths of COCO and SA-1B: checked, decoded, and encoded.

pycocotools encodes. It does not read what comes from elsewhere unchecked: it takes damaged run lengths for good ones,
fills what they leave out with whatever is in the memory, and reads and writes beyond it, which ends the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

# A run is written in groups of 5 bits, of which 7 hold more than any image has pixels.
_BITS, _MORE, _NEGATIVE, _MOST_GROUPS = 5, 0x20, 0x10, 7
# The character of a group of zeros.
_FIRST = 48


def parse_run_lengths(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """The checked run lengths of a mask.

    Args:
        segmentation: {"size": [height, width], "counts": COCO's compressed string, or a list of numbers}.
        size: (height, width) of the image.

    Returns:
        int64 lengths of runs, column by column, of 0 and 1 by turns, beginning with 0; their sum is height · width.

    Raises:
        ValueError: another form, another size, or lengths that do not cover the image.
    """
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError("a mask is not given in run lengths, a size and counts")
    stated = segmentation["size"]
    if not isinstance(stated, list | tuple) or tuple(stated) != size:
        raise ValueError(f"a mask is of the size {stated} (height, width), its image of {list(size)}")
    counts = segmentation["counts"]
    if isinstance(counts, str | bytes):
        runs = _decompress(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        # One that is longer than the image is damaged, and may be longer than any number of 64 bits.
        runs = np.array([count if abs(count) <= size[0] * size[1] else -1 for count in counts], dtype=np.int64)
    else:
        raise ValueError("the counts of a mask are neither a string nor a list of whole numbers")
    if (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError(f"the runs of a mask do not cover its {size[0]}x{size[1]} pixels: it is damaged, or outside")
    return runs


def decode_runs(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of checked run lengths."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """The run lengths of a mask, (H,W), as JSON holds them: {"size": [H, W], "counts": string}."""
    encoded = coco_masks.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def compress_runs(runs: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths as JSON holds them, see `encode_mask`, without the mask, which may be too large for memory.

    Args:
        runs: int64 lengths, column by column, of 0 and 1 by turns, beginning with 0.
        size: (H, W) of the mask.
    """
    rest = runs.copy()
    # The first three stand as they are; from there on a run is a difference to the one before the last.
    rest[3:] -= runs[1:-2]
    groups = np.zeros((len(runs), _MOST_GROUPS), np.uint8)
    is_used = np.zeros(groups.shape, bool)
    goes_on = np.ones(len(runs), bool)
    for place in range(_MOST_GROUPS):
        is_used[:, place] = goes_on
        bits = rest & (_MORE - 1)
        rest >>= _BITS
        goes_on &= np.where(bits & _NEGATIVE, rest != -1, rest != 0)
        groups[:, place] = bits + _MORE * goes_on + _FIRST
    return {"size": [int(side) for side in size], "counts": groups[is_used].tobytes().decode("ascii")}


def _decompress(counts: str | bytes) -> np.ndarray:
    """The lengths in COCO's string: groups of 5 bits, the lowest first, of differences to the length before the last.

    Raises:
        ValueError: characters that do not occur, a string that breaks off, or a number that is too long.
    """
    try:
        data = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        data = b"\xff"
    groups = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - _FIRST
    if not len(groups) or groups.min() < 0 or groups.max() > 63:
        raise ValueError("the counts of a mask are empty, or have characters that do not occur in run lengths")
    is_last = (groups & _MORE) == 0
    if not is_last[-1]:
        raise ValueError("the counts of a mask break off")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_GROUPS:
        raise ValueError("the counts of a mask have a number that is too long")
    shifts = _BITS * (np.arange(len(groups)) - np.repeat(starts, lengths))
    differences = np.add.reduceat((groups & 0x1F) << shifts, starts)
    differences -= np.where(groups[ends] & _NEGATIVE, 1 << (_BITS * lengths), 0)
    runs = differences.copy()
    # The first three stand as they are; from there on a run is a difference to the one before the last.
    runs[1::2] = np.cumsum(differences[1::2])
    runs[2::2] = np.cumsum(differences[2::2])
    return runs

"""Sliding windows: an image in overlapping parts, each segmented by itself, averaged with one whole-image pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.meta_arch.segmentation import Segmentation


@dataclass(frozen=True)
class SlidingWindow:
    """Windows over an image resized to `size`, averaged with one whole-image pass; (height, width) each.

    Attributes:
        size: to which the image is resized.
        window: the size of a window.
        overlap: the least share that neighbours have in common, 0 <= overlap < 1.

    Raises:
        ValueError: for a window that does not fit, or another overlap.
    """

    size: tuple[int, int] = (640, 640)
    window: tuple[int, int] = (384, 384)
    overlap: float = 1.0 / 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ValueError(f"TEST.SLIDING.OVERLAP is {self.overlap}; it is a share from 0 to less than 1")
        self.corners()

    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of each window, row by row."""
        rows, columns = (
            window_starts(size, window, self.overlap) for size, window in zip(self.size, self.window, strict=True)
        )
        return [(top, left) for top in rows for left in columns]

    def cut(self, pixels: Tensor) -> Iterator[Tensor]:
        """The windows of images (B, 3, *size), in the order of `corners`."""
        for top, left in self.corners():
            yield pixels[:, :, top : top + self.window[0], left : left + self.window[1]]


@dataclass(frozen=True)
class WindowedFeatures:
    """Features of the whole image, and of each window in the order of `SlidingWindow.corners`."""

    whole: Any
    windows: list[Any]


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along a side of `size` pixels: `overlap` is the least share that neighbours have in common.

    Raises:
        ValueError: when the window does not fit.
    """
    if window > size:
        raise ValueError(f"TEST.SLIDING.WINDOW ({window}) is larger than TEST.SLIDING.SIZE ({size})")
    count = 1 + -(-(size - window) // max(1, int(window * (1 - overlap))))
    if count == 1:
        return [0]
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


def average_windows(
    features: WindowedFeatures, sliding: SlidingWindow, segment: Callable[[Any], Segmentation], rows: int
) -> Segmentation:
    """Average the probabilities of the windows with those of the whole image, on the grid of the logits.

    Args:
        features: of one image.
        sliding: the windows.
        segment: segments features of the whole image or of a window.
        rows: of the vocabulary.

    Returns:
        Logarithms of the averages for all rows in order; maps and prompts are those of the whole image.
    """
    whole = segment(features.whole)
    total, count = None, None
    for (top, left), window in zip(sliding.corners(), features.windows, strict=True):
        part = segment(window).row_probabilities(rows)
        if total is None:
            # Cells of the logits for each pixel; windows start on whole cells.
            cells = [part.shape[2] / sliding.window[0], part.shape[3] / sliding.window[1]]
            shape = [round(side * cell) for side, cell in zip(sliding.size, cells, strict=True)]
            total, count = part.new_zeros(len(part), rows, *shape), part.new_zeros(1, 1, *shape)
        y, x = round(top * cells[0]), round(left * cells[1])
        total[:, :, y : y + part.shape[2], x : x + part.shape[3]] += part
        count[:, :, y : y + part.shape[2], x : x + part.shape[3]] += 1
    average = total / count
    resized = F.interpolate(whole.row_probabilities(rows), average.shape[-2:], mode="bilinear")
    logits = ((average + resized) / 2).clamp(min=torch.finfo(torch.float).tiny).log()
    return Segmentation(logits, None, whole.correlations, whole.prompts)

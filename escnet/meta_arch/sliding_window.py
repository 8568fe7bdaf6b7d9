"""Sliding windows: an image in overlapping parts, each segmented by itself, averaged with one whole-image pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.meta_arch.segmentation import Segmentation, join_images
from escnet.meta_arch.window_average import WindowAverage

# What a probability of 0 counts as, so that it has a logarithm.
LEAST_PROBABILITY = torch.finfo(torch.float).tiny


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
    features: WindowedFeatures, sliding: SlidingWindow, segment: Callable[[Any], Segmentation]
) -> Segmentation:
    """Average the probabilities of the windows with those of the whole image, on the grid of the logits.

    A row that is left out in a window, or in the whole image, has no probability there. Only rows that are kept
    somewhere are carried along, so that memory grows with these and not with the vocabulary.

    Args:
        features: of B images.
        sliding: the windows.
        segment: segments features of the whole images or of a window of each.

    Returns:
        Logarithms of the averages, for the rows of each image that the whole or any window kept, in the order of the
        vocabulary; maps and prompts are those of the whole images.
    """
    whole = segment(features.whole)
    # Nothing of a window is drawn.
    windows = [replace(segment(window), correlations=[], prompts=[]) for window in features.windows]
    images = []
    for i in range(len(whole.logits)):
        parts = [part.of_image(i) for part in (whole, *windows)]
        rows = _kept_somewhere(parts)
        probabilities = (_probabilities(part, rows) for part in parts)
        logits = _average(next(probabilities), probabilities, sliding).log()
        if rows is None:
            images.append(replace(parts[0], logits=logits))
        else:
            images.append(replace(parts[0], logits=logits, rows=rows[None], map_rows=_rows(parts[0])))
    return join_images(images)


def _kept_somewhere(parts: Sequence[Segmentation]) -> Tensor | None:
    """(R,) the rows that any part of one image kept, in order; None where all kept all."""
    if all(part.rows is None for part in parts):
        return None
    return torch.cat([_rows(part)[0] for part in parts]).unique()


def _rows(part: Segmentation) -> Tensor:
    """(B, M) the rows of the logits, also where these are all in order."""
    if part.rows is not None:
        return part.rows
    images, count = part.logits.shape[:2]
    return torch.arange(count, device=part.logits.device).expand(images, -1)


def _probabilities(part: Segmentation, rows: Tensor | None) -> Tensor:
    """(1, R, H', W') probabilities of the given rows (R,), or of all, in a part of one image."""
    if rows is None:
        return part.row_probabilities(part.logits.shape[1])
    return replace(part, rows=torch.searchsorted(rows, _rows(part))).row_probabilities(len(rows))


def _average(whole: Tensor, windows: Iterable[Tensor], sliding: SlidingWindow) -> Tensor:
    """Probabilities (1, R, H', W') of the whole image and of each window, averaged on the grid of the windows."""
    sums = None
    for (top, left), part in zip(sliding.corners(), windows, strict=True):
        if sums is None:
            # Cells of the logits for each pixel; windows start on whole cells.
            cells = [part.shape[2] / sliding.window[0], part.shape[3] / sliding.window[1]]
            shape = [round(side * cell) for side, cell in zip(sliding.size, cells, strict=True)]
            sums = WindowAverage(part.new_ones(part.shape[2:]), (*part.shape[:2], *shape))
        sums.add(part, round(top * cells[0]), round(left * cells[1]))
    average = sums.average()
    resized = F.interpolate(whole, average.shape[-2:], mode="bilinear")
    return ((average + resized) / 2).clamp(min=LEAST_PROBABILITY)

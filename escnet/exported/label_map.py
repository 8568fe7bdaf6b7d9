"""From logits to label maps at image size with NumPy, a strip at a time; `escnet.meta_arch.label_map` is PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Elements of the largest temporary array.
STRIP_ELEMENTS = 1 << 22


def label_map(logits: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Resize logits bilinearly and take the best row of each pixel, a strip of the image at a time.

    Args:
        logits: (M, h, w).
        size: (H, W) of the image.

    Returns:
        The index of the best row (H, W) int64, and its probability (H, W) float32; the softmax's normaliser is computed
        on the grid of the logits and resized with them, as PyTorch's label map does.
    """
    greatest = logits.max(axis=0)
    normaliser = greatest + np.log(np.exp(logits - greatest).sum(axis=0))
    stacked = np.concatenate([logits, normaliser[None]]).astype(np.float32)
    labels, scores = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.float32)
    for rows, strip in _resized_strips(stacked, size):
        best = strip[:-1].argmax(axis=0)
        labels[rows] = best
        scores[rows] = np.exp(np.take_along_axis(strip, best[None], axis=0)[0] - strip[-1])
    return labels, scores


def _resized_strips(maps: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, (M, rows, W)) of maps (M, h, w) resized to (H, W), pixels from the middle of the outermost points on."""
    above, below, down = _neighbours(size[0], maps.shape[1])
    left, right, across = _neighbours(size[1], maps.shape[2])
    step = max(1, STRIP_ELEMENTS // (len(maps) * size[1]))
    for start in range(0, size[0], step):
        rows = slice(start, min(start + step, size[0]))
        first = maps[:, above[rows]]
        strip = first + (maps[:, below[rows]] - first) * down[rows, None]
        yield rows, strip[..., left] * (1 - across) + strip[..., right] * across


def _neighbours(pixels: int, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two points between which each pixel lies, and the weight of the second."""
    position = np.maximum((np.arange(pixels) + 0.5) * (points / pixels) - 0.5, 0)
    first = np.minimum(position.astype(np.int64), points - 1)
    return first, np.minimum(first + 1, points - 1), (position - first).astype(np.float32)

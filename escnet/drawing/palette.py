"""A fixed sequence of colours that are easily told apart, for any number of classes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def palette(n: int) -> np.ndarray:
    """The first n of a fixed sequence of colours, (n, 3) uint8 RGB, each as far as possible from all before it.

    `palette(m)` begins with `palette(n)` for n <= m, so that a class keeps its colour when others are added.

    Raises:
        ValueError: when n is negative, or larger than the number of distinct colours (several thousand).
    """
    candidates, _ = _candidate_colours()
    if not 0 <= n <= len(candidates):
        raise ValueError(f"the palette has {len(candidates)} colours, got n = {n}")
    size = min(len(candidates), 1 << max(6, (n - 1).bit_length()))
    return _spread_colours(size)[:n].copy()


@lru_cache(maxsize=1)
def _candidate_colours() -> tuple[np.ndarray, np.ndarray]:
    """sRGB colours neither dark, pale, grey nor glaring, (M, 3) uint8, and OKLab coordinates in thousandths, int32."""
    levels = np.linspace(0, 255, 28).round()
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    linear = np.where(rgb <= 10, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    lab = np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] > 0.42) & (lab[:, 0] < 0.92) & (chroma > 0.06) & (chroma < 0.22)
    # Whole numbers, so that every machine finds the same colours.
    return rgb[usable].astype(np.uint8), (1000 * lab[usable]).round().astype(np.int32)


@lru_cache(maxsize=8)
def _spread_colours(n: int) -> np.ndarray:
    """Farthest-point sampling of the candidates, from a blue on."""
    rgb, lab = _candidate_colours()
    chosen = [int(np.abs(rgb.astype(int) - (31, 119, 180)).sum(axis=1).argmin())]
    square = (lab**2).sum(axis=1)
    distance = np.full(len(rgb), np.iinfo(np.int32).max, np.int64)
    while len(chosen) < n:
        last = chosen[-1]
        np.minimum(distance, square - 2 * (lab @ lab[last]) + square[last], out=distance)
        chosen.append(int(distance.argmax()))
    return rgb[chosen]

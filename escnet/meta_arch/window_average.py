"""The average of overlapping windows on a grid of which a band of rows is held, each window weighted as it may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

# How much a cell counts, by where it lies between the edge of its window, 0, and the middle, 1.
FALLOFFS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "linear": lambda place: place,
    "cosine": lambda place: (1 - torch.cos(torch.pi * place)) / 2,
}


class WindowAverage:
    """Sums of windows, each cell of which has a weight, over a band of a grid, and their averages.

    Args:
        weight: (h, w) of the cells of a window, all above 0.
        shape: of the band; the last two are its rows and columns of cells, before them come channels.
    """

    def __init__(self, weight: Tensor, shape: tuple[int, ...]) -> None:
        self.weight = weight
        self.total = weight.new_zeros(shape)
        self.count = weight.new_zeros(shape[-2:])

    def add(self, window: Tensor, top: int, left: int) -> None:
        """Add a window (..., h, w) whose first cell lies at `top`, `left` of the band."""
        height, width = self.weight.shape
        place = (..., slice(top, top + height), slice(left, left + width))
        self.total[place] += window * self.weight
        self.count[place] += self.weight

    def average(self) -> Tensor:
        """The weighted mean of what was added, in each cell of the band; NaN where nothing was."""
        return self.total / self.count

    def take(self, rows: int) -> Tensor:
        """The averages of the first rows of the band, which moves on by as many: those below are empty."""
        done = self.total[..., :rows, :] / self.count[:rows]
        for sums in (self.total, self.count):
            sums[..., : sums.shape[-2] - rows, :] = sums[..., rows:, :].clone()
            sums[..., sums.shape[-2] - rows :, :] = 0
        return done


def window_weight(cells: tuple[int, int], falloff: str) -> Tensor:
    """(h, w) weights of the cells of a window, which fall off from its middle to its edge.

    Args:
        cells: h and w.
        falloff: one of `FALLOFFS`.
    """
    sides = []
    for count in cells:
        middle = torch.arange(count) + 0.5
        sides.append(FALLOFFS[falloff](torch.minimum(middle, count - middle) / (count / 2)))
    return sides[0][:, None] * sides[1]

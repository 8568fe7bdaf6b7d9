"""The best row of logits at each pixel, resizing only the rows that can win there.

Between four neighbouring points of a grid, a *cell*, bilinear values lie between the least and the greatest of the
four. A row whose greatest is below another's least wins nowhere in the cell. The rows that are left contend for it: in
most cells of a model's logits they are one or two, however large the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

# Pixels; 32 x 32 of them are the largest block that is resized at once, however coarse the grid.
LONGEST_RUN = 32


def contending_rows(logits: Tensor, elements: int) -> Tensor:
    """Which rows can win somewhere in each cell; those that tie contend.

    Args:
        logits: (N, h, w), h and w at least 2.
        elements: of the largest temporary tensor.

    Returns:
        (N, h - 1, w - 1) bool.
    """
    rows, height, width = logits.shape
    contending = torch.empty(rows, height - 1, width - 1, dtype=torch.bool, device=logits.device)
    step = max(1, elements // (rows * width))
    for start in range(0, height - 1, step):
        strip = logits[:, start : start + step + 1]
        least = torch.minimum(strip[:, :-1], strip[:, 1:])
        least = torch.minimum(least[..., :-1], least[..., 1:])
        greatest = torch.maximum(strip[:, :-1], strip[:, 1:])
        greatest = torch.maximum(greatest[..., :-1], greatest[..., 1:])
        # Not `>=`: NaN contends, and wins as it does where all rows are resized.
        contending[:, start : start + step] = ~(greatest < least.amax(dim=0))
    return contending


class Runs:
    """One side of an image, cut into runs of pixels that lie in one cell.

    Attributes:
        length: pixels of the side.
        cell: (R,) the cell of each run; beyond the outermost points, the outermost cell.
        pixels: (P, R) the pixels of each run; a run shorter than P repeats its last.
        share: (P, R) the weight of the second point of the cell, for each of them.
    """

    def __init__(self, position: Tensor, points: int, device: torch.device) -> None:
        """Cut a side whose pixels are at `position`, on the CPU, where the points are at 0, 1, ... `points` - 1."""
        self.length = len(position)
        # A run ends with its cell, or at a multiple of the longest.
        key = position.floor().long() * self.length + torch.arange(self.length) // LONGEST_RUN
        lengths = key.unique_consecutive(return_counts=True)[1]
        starts = lengths.cumsum(0) - lengths
        pixels = starts + torch.minimum(torch.arange(int(lengths.max()))[:, None], lengths - 1)
        cell = position[starts].floor().long().clamp(0, points - 2)
        self.cell, self.pixels = cell.to(device), pixels.to(device)
        self.share = (position[pixels] - cell).clamp(0, 1).to(device)


def best_contending_rows(
    logits: Tensor, contending: Tensor, vertical: Runs, horizontal: Runs, elements: int
) -> tuple[Tensor, Tensor]:
    """The best of the rows that contend for each pixel.

    Args:
        logits: (N, h, w).
        contending: (N, h - 1, w - 1) bool, at least one row for each cell.
        vertical: the runs of an image's column.
        horizontal: the runs of its row.
        elements: of the largest temporary tensor.

    Returns:
        Its index, (H, W) int64, and its logit there, (H, W).
    """
    size = vertical.length, horizontal.length
    labels = torch.empty(size, dtype=torch.long, device=logits.device)
    best = torch.empty(size, dtype=logits.dtype, device=logits.device)
    row, first = _by_cell(contending)
    # A block of pixels is where a vertical and a horizontal run cross.
    cell = (vertical.cell[:, None] * contending.shape[2] + horizontal.cell).flatten()
    number = first.diff()[cell]
    for most, block in _alike(number, elements // (len(vertical.pixels) * len(horizontal.pixels))):
        down, across = block // len(horizontal.cell), block % len(horizontal.cell)
        # Where fewer than `most` contend, the last of them is repeated.
        member = torch.minimum(torch.arange(most, device=logits.device)[:, None], number[block] - 1)
        rows = row[first[cell[block]] + member]
        top, left = vertical.cell[down], horizontal.cell[across]
        resized = _resize(logits, rows, top, left, vertical.share[:, down], horizontal.share[:, across])
        values, winner = resized.max(dim=0)
        pixel = vertical.pixels[:, None, down] * horizontal.length + horizontal.pixels[:, across]
        best.view(-1)[pixel] = values
        labels.view(-1)[pixel] = rows.gather(0, winner.flatten(0, 1)).view_as(winner)
    return labels, best


def _by_cell(contending: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that contend, cell by cell and in order, and where those of each cell begin and the last end."""
    row, cell = contending.flatten(1).nonzero(as_tuple=True)
    cell, order = cell.sort(stable=True)
    cells = torch.arange(contending[0].numel() + 1, device=contending.device)
    return row[order], torch.searchsorted(cell, cells)


def _alike(number: Tensor, elements: int) -> Iterator[tuple[int, Tensor]]:
    """Blocks with up to 1, 2, 4, 8, ... rows each, (most rows, blocks): most rows × blocks is at most `elements`."""
    number, blocks = number.sort()
    powers = 2 ** torch.arange(63, device=number.device)
    ends = torch.searchsorted(number, powers, right=True).tolist()
    for exponent, (start, end) in enumerate(pairwise([0, *ends])):
        if start < end:
            for some in blocks[start:end].split(max(1, elements >> exponent)):
                yield 1 << exponent, some


def _resize(logits: Tensor, rows: Tensor, top: Tensor, left: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Resize k rows of the logits in b blocks, rounding as `label_map` does where it resizes all of them (on a CPU).

    Args:
        logits: (N, h, w).
        rows: (k, b).
        top: (b,) the upper points of the cells.
        left: (b,) their left points.
        down: (P, b) the weights of the lower points.
        across: (Q, b) the weights of the right points.

    Returns:
        (k, P, Q, b).
    """
    width = logits.shape[2]
    corner = (rows * logits[0].numel() + top * width + left)[:, None]
    values = logits.flatten()
    first = torch.lerp(values[corner], values[corner + width], down)[:, :, None]
    second = torch.lerp(values[corner + 1], values[corner + width + 1], down)[:, :, None]
    return torch.addcmul(second * across, first, 1 - across)

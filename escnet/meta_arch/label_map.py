"""From a model's logits to label maps at image size, without ever holding an N×H×W tensor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.meta_arch.contending_rows import Runs, best_contending_rows, contending_rows

# Elements of the largest temporary tensor: 16 MiB of fp32, since glibc maps those above 32 MiB anew each time.
STRIP_ELEMENTS = 1 << 22

# To look for the rows that contend pays with so many rows, so many pixels for each point of the grid, and when no more
# than this share of the rows does.
LEAST_ROWS = 32
LEAST_ENLARGEMENT = 4
MOST_CONTENDING = 0.125


def label_map(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize logits bilinearly to (H, W) and take the best row of each pixel.

    Args:
        logits: (N, h, w); a row wins nowhere near a point where it is -inf.
        size: (H, W) of the image.

    Returns:
        The index of the best row, (H, W) int64, and its probability, (H, W) float. The softmax's normaliser is
        computed on the grid of the logits and resized with them.
    """
    logits = torch.cat([logits, logits.logsumexp(dim=0, keepdim=True)]).float()
    # Of -inf, a weight of 0 and a difference would make NaN.
    logits[:-1].clamp_(min=torch.finfo(torch.float).min)
    contending = _few_contending_rows(logits[:-1], size)
    if contending is None:
        return _best_rows(logits, size)
    vertical = Runs(_positions(size[0], logits.shape[1]), logits.shape[1], logits.device)
    horizontal = Runs(_fused_positions(size[1], logits.shape[2]), logits.shape[2], logits.device)
    labels, best = best_contending_rows(logits[:-1], contending, vertical, horizontal, STRIP_ELEMENTS)
    normaliser = torch.cat([strip[0] for _, strip in _resized_strips(logits[-1:], size)])
    return labels, (best - normaliser).exp_()


def _few_contending_rows(logits: Tensor, size: tuple[int, int]) -> Tensor | None:
    """`contending_rows`, or None where resizing all rows is as fast."""
    rows, height, width = logits.shape
    if rows < LEAST_ROWS or min(height, width) < 2 or size[0] * size[1] < LEAST_ENLARGEMENT * height * width:
        return None
    contending = contending_rows(logits, STRIP_ELEMENTS)
    return contending if contending.count_nonzero() <= MOST_CONTENDING * contending.numel() else None


def _best_rows(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`label_map` of (N + 1, h, w) logits, the normaliser last, resizing all of them strip by strip."""
    labels = torch.empty(size, dtype=torch.long, device=logits.device)
    scores = torch.empty(size, dtype=torch.float, device=logits.device)
    for rows, strip in _resized_strips(logits, size):
        best, labels[rows] = strip[:-1].max(dim=0)
        scores[rows] = (best - strip[-1]).exp()
    return labels, scores


def _resized_strips(logits: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, (N, rows, W)) of the logits resized as by F.interpolate(mode="bilinear")."""
    height, width = size
    source_height = logits.shape[1]
    position = _positions(height, source_height).clamp(min=0).to(logits.device)
    above = position.floor().long().clamp(max=source_height - 1)
    below = (above + 1).clamp(max=source_height - 1)
    share = (position - above).view(1, -1, 1)
    step = max(1, STRIP_ELEMENTS // (logits.shape[0] * width))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        strip = torch.lerp(logits[:, above[rows]], logits[:, below[rows]], share[:, rows])
        yield rows, F.interpolate(strip[None], (strip.shape[1], width), mode="bilinear", align_corners=False)[0]


def _positions(pixels: int, points: int) -> Tensor:
    """Where pixels lie between points 0, 1, ... `points` - 1, (pixels,)."""
    return (torch.arange(pixels) + 0.5) * (points / pixels) - 0.5


def _fused_positions(pixels: int, points: int) -> Tensor:
    """The same as F.interpolate rounds it: the scale, and then the product and difference at once."""
    scale = torch.tensor(points / pixels, dtype=torch.float).double()
    return ((torch.arange(pixels) + 0.5).double() * scale - 0.5).float()

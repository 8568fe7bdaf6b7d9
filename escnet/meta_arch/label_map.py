"""From a model's logits to label maps at image size, without ever holding an N×H×W tensor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# Elements of the largest temporary tensor (64 MiB of fp32).
STRIP_ELEMENTS = 1 << 24


def label_map(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize logits bilinearly to (H, W) and take the best row of each pixel, strip by strip.

    Args:
        logits: (N, h, w).
        size: (H, W) of the image.

    Returns:
        The index of the best row, (H, W) int64, and its probability, (H, W) float. The softmax's normaliser is
        computed on the grid of the logits and resized with them.
    """
    height, width = size
    logits = torch.cat([logits, logits.logsumexp(dim=0, keepdim=True)]).float()
    labels = torch.empty(height, width, dtype=torch.long, device=logits.device)
    scores = torch.empty(height, width, dtype=torch.float, device=logits.device)
    for rows, strip in _resized_strips(logits, size):
        best, labels[rows] = strip[:-1].max(dim=0)
        scores[rows] = (best - strip[-1]).exp()
    return labels, scores


def _resized_strips(logits: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, (N, rows, W)) of the logits resized as by F.interpolate(mode="bilinear")."""
    height, width = size
    source_height = logits.shape[1]
    position = ((torch.arange(height, device=logits.device) + 0.5) * (source_height / height) - 0.5).clamp(min=0)
    above = position.floor().long().clamp(max=source_height - 1)
    below = (above + 1).clamp(max=source_height - 1)
    share = (position - above).view(1, -1, 1)
    step = max(1, STRIP_ELEMENTS // (logits.shape[0] * width))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        strip = torch.lerp(logits[:, above[rows]], logits[:, below[rows]], share[:, rows])
        yield rows, F.interpolate(strip[None], (strip.shape[1], width), mode="bilinear", align_corners=False)[0]

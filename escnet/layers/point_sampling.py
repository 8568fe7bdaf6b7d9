"""Points drawn from a score map, likelier where the score is higher (SAM-CLIP, sec. A.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SampledPoints(NamedTuple):
    """Up to n points in each of P maps."""

    cells: Tensor
    """(P,n,2) as (x, y), in cells of the map."""
    labels: Tensor
    """(P,n) 1.0 for a point; -1.0, SAM's label of no point, where a map has too few cells."""


def sample_points(scores: Tensor, threshold: float, count: int, uniform: Tensor) -> SampledPoints:
    """Draw distinct cells among those whose score exceeds a threshold, each with a chance in proportion to its score.

    The cells with the highest log score plus Gumbel noise are a draw without replacement; so the random numbers are an
    argument, and the same ones give the same points on every device.

    Arguments:
      scores: (P,h,w), not negative.
      threshold: cells that do not exceed it are never drawn.
      count: n, most points of a map.
      uniform: (h·w,) or (P,h·w) random numbers in 0..1.
    """
    width = scores.shape[-1]
    flat = scores.flatten(1)
    count = min(count, flat.shape[1])
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-6, 1 - 1e-6)))
    keys = torch.where(flat > threshold, flat.clamp(min=1e-12).log() + gumbel, -torch.inf)
    best, cells = keys.topk(count, dim=1)
    positions = torch.stack([cells % width, cells.div(width, rounding_mode="floor")], dim=-1)
    return SampledPoints(positions.to(scores.dtype), torch.where(best.isinf(), -1.0, 1.0).to(scores.dtype))


def sample_evenly(region: Tensor, uniform: Tensor) -> SampledPoints:
    """Draw cells of regions with replacement, each of a region alike.

    The k-th point is the cell whose rank within the region is the k-th random number's share of its size, so that the
    same numbers give the same points on every device.

    Arguments:
      region: (P,h,w) bool.
      uniform: (n,) or (P,n) random numbers in 0..1.

    Returns:
      n points in each; those of an empty region have the label -1.
    """
    width = region.shape[-1]
    ranks = region.flatten(1).cumsum(dim=1)
    sizes = ranks[:, -1:]
    wanted = (uniform.to(ranks.device).expand(region.shape[0], -1) * sizes).long().clamp(max=sizes - 1) + 1
    cells = torch.searchsorted(ranks, wanted.clamp(min=1)).clamp(max=ranks.shape[1] - 1)
    positions = torch.stack([cells % width, cells.div(width, rounding_mode="floor")], dim=-1).float()
    return SampledPoints(positions, torch.where(sizes > 0, 1.0, -1.0).expand(-1, wanted.shape[1]))

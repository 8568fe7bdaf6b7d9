"""The small parts that the attention layers of the fusion are made of."""

from __future__ import annotations

from torch import nn


def projection(channels: int, dim: int) -> nn.Sequential:
    """A norm over C channels and a linear map to d, without bias."""
    return nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, dim, bias=False))


def mlp(dim: int, ratio: float) -> nn.Sequential:
    """Two linear maps over d channels with a GELU between them, `ratio` times as wide inside."""
    hidden = int(dim * ratio)
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

"""Linear attention over the classes of a vocabulary, guided by text (CAT-Seg, sec. 3.3, "class aggregation")."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.feed_forward import mlp, projection


class ClassContext(NamedTuple):
    """Sums over the classes that linear attention needs; they add up over chunks.

    Attributes:
        key_value: (B, hw, X, c, c) sum of key ⊗ value.
        key: (B, hw, X, c) sum of keys.
    """

    key_value: Tensor
    key: Tensor

    def plus(self, other: ClassContext) -> ClassContext:
        """The context of both sets of classes together."""
        return ClassContext(self.key_value + other.key_value, self.key + other.key)


class ClassAttention(nn.Module):
    """Linear attention over the classes at each cell, guided by text, and an MLP.

    Queries and keys are elu(·) + 1 (Katharopoulos et al., "Transformers are RNNs"), so the cost grows with N, not N².

    Args:
        dim: d.
        text_dim: D, channels of the text features.
        num_heads: X.
        mlp_ratio: width of the MLP over d.
        pool: side of the squares of cells over whose mean it works (CAT-Seg: 2); what it changes is brought back to the
            cells bilinearly. 1: each cell.
    """

    def __init__(self, dim: int, text_dim: int, num_heads: int, mlp_ratio: float = 4.0, pool: int = 1) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pool = pool
        self.norm1 = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.text = projection(text_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp(dim, mlp_ratio)

    def context(self, x: Tensor, text: Tensor, grid: tuple[int, int]) -> ClassContext:
        """What some classes, (B, n, hw, d) with text (B, n, D), contribute to the attention of all."""
        key, value = self.key_value(self.norm1(self._pooled(x, grid))).chunk(2, dim=-1)
        key = key + self.text(text)[..., x.shape[-1] :].unsqueeze(2)
        key, value = (rearrange(t, "b n p (x c) -> b p x n c", x=self.num_heads) for t in (_positive(key), value))
        with torch.autocast(x.device.type, enabled=False):
            key, value = key.float(), value.float()
            return ClassContext(key.transpose(-1, -2) @ value, key.sum(dim=-2))

    def forward(self, x: Tensor, text: Tensor, context: ClassContext, grid: tuple[int, int]) -> Tensor:
        """(B, n, hw, d) to the same shape, given the context of all N classes on the same grid (h, w)."""
        if self.pool == 1:
            return self._attend(x, text, context)
        pooled = self._pooled(x, grid)
        change = self._attend(pooled, text, context) - pooled
        return x + _on_grid(lambda maps: F.interpolate(maps, grid, mode="bilinear"), change, self._pooled_grid(grid))

    def _attend(self, x: Tensor, text: Tensor, context: ClassContext) -> Tensor:
        query = self.query(self.norm1(x)) + self.text(text)[..., : x.shape[-1]].unsqueeze(2)
        query = rearrange(_positive(query), "b n p (x c) -> b p x n c", x=self.num_heads)
        with torch.autocast(x.device.type, enabled=False):
            query = query.float()
            total = query @ context.key.unsqueeze(-1)
            attended = (query @ context.key_value) / total
        x = x + self.proj(rearrange(attended, "b p x n c -> b n p (x c)").to(x.dtype))
        return x + self.mlp(self.norm2(x))

    def _pooled(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, n, hw, d) to the means of squares of cells; those at the end of an odd grid are of fewer."""
        return x if self.pool == 1 else _on_grid(lambda maps: F.avg_pool2d(maps, self.pool, ceil_mode=True), x, grid)

    def _pooled_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        return -(-grid[0] // self.pool), -(-grid[1] // self.pool)


def _on_grid(function: Callable[[Tensor], Tensor], x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Apply a function of (M, d, h, w) maps to (B, n, hw, d)."""
    maps = rearrange(x, "b n (h w) d -> (b n) d h w", h=grid[0])
    return rearrange(function(maps), "(b n) d h w -> b n (h w) d", b=len(x))


def _positive(x: Tensor) -> Tensor:
    # elu(x) + 1, of which PyTorch computes the exponential eight times as fast on a CPU.
    return x.clamp(max=0.0).exp() + F.relu(x)

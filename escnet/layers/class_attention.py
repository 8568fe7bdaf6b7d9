"""Linear attention over the classes of a vocabulary, guided by text (CAT-Seg, sec. 3.3, "class aggregation")."""

from __future__ import annotations

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
    """

    def __init__(self, dim: int, text_dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.text = projection(text_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp(dim, mlp_ratio)

    def context(self, x: Tensor, text: Tensor) -> ClassContext:
        """What some classes, (B, n, hw, d) with text (B, n, D), contribute to the attention of all."""
        key, value = self.key_value(self.norm1(x)).chunk(2, dim=-1)
        key = key + self.text(text)[..., x.shape[-1] :].unsqueeze(2)
        key, value = (rearrange(t, "b n p (x c) -> b p x n c", x=self.num_heads) for t in (_positive(key), value))
        with torch.autocast(x.device.type, enabled=False):
            key, value = key.float(), value.float()
            return ClassContext(key.transpose(-1, -2) @ value, key.sum(dim=-2))

    def forward(self, x: Tensor, text: Tensor, context: ClassContext) -> Tensor:
        """(B, n, hw, d) to the same shape, given the context of all N classes."""
        query = self.query(self.norm1(x)) + self.text(text)[..., : x.shape[-1]].unsqueeze(2)
        query = rearrange(_positive(query), "b n p (x c) -> b p x n c", x=self.num_heads)
        with torch.autocast(x.device.type, enabled=False):
            query = query.float()
            total = query @ context.key.unsqueeze(-1)
            attended = (query @ context.key_value) / total
        x = x + self.proj(rearrange(attended, "b p x n c -> b n p (x c)").to(x.dtype))
        return x + self.mlp(self.norm2(x))


def _positive(x: Tensor) -> Tensor:
    return F.elu(x) + 1.0

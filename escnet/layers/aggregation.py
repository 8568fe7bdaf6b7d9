"""Aggregation of the embeddings of many classes, over space and over classes (CAT-Seg, sec. 3.3; PCA-Seg, sec. 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from escnet.layers.chunking import class_chunks, run_chunk
from escnet.layers.class_attention import ClassAttention, ClassContext
from escnet.layers.swin import GuidedSwinBlock

AGGREGATIONS = ("serial", "parallel")
Guides = list[Tensor | None]
"""(B, n, hw, 2d) for each Swin block, the share of the image features in its queries and keys; None without."""


def swin_pair(dim: int, feature_dim: int, num_heads: int, window: int, mlp_ratio: float) -> nn.ModuleList:
    """A Swin block with plain windows and one with shifted ones; queries and keys see C image channels (0: none)."""
    return nn.ModuleList(
        GuidedSwinBlock(dim, feature_dim, num_heads, window, shift, mlp_ratio) for shift in (0, window // 2)
    )


class MixtureOfTwo(nn.Module):
    """Bring two embeddings of the same cells together: a few linear experts see both, and each cell weighs these.

    PCA-Seg's module of experts and coefficients in its plainest form, without its loss that keeps the two orthogonal.
    """

    def __init__(self, dim: int, experts: int = 3) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * dim)
        self.experts = nn.Linear(2 * dim, experts * dim)
        self.coefficients = nn.Linear(2 * dim, experts)

    def forward(self, over_space: Tensor, over_classes: Tensor) -> Tensor:
        """(..., d) twice to (..., d): the mean of both, and what the experts add."""
        both = self.norm(torch.cat([over_space, over_classes], dim=-1))
        weights = self.coefficients(both).softmax(dim=-1).unsqueeze(-1)
        added = (self.experts(both).unflatten(-1, (weights.shape[-2], -1)) * weights).sum(dim=-2)
        return (over_space + over_classes) / 2 + added


def aggregate(
    embed: Callable[[slice], tuple[Tensor, Guides]],
    swin: Iterable[GuidedSwinBlock],
    class_attention: ClassAttention,
    text: Tensor,
    grid: tuple[int, int],
    *,
    mixture: MixtureOfTwo | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    chunk: int = 0,
    recompute: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Aggregate the embeddings of N classes, each over the cells by Swin blocks, and at each cell over the classes.

    Args:
        embed: gives the embeddings (B, n, hw, d) of a chunk of classes, and the guides of the Swin blocks for them.
        swin: the blocks over the cells.
        class_attention: over the classes.
        text: (B, N, D) text features.
        grid: (h, w).
        mixture: None: over the cells and then over the classes (CAT-Seg); else both from the same embedding, brought
            together by it (PCA-Seg).
        finish: applied to the aggregated embeddings of each chunk.
        chunk: classes at a time (0: all); the result does not depend on it.
        recompute: checkpoint the activations of each chunk.

    Returns:
        The embeddings (B, N, hw, d), and what `finish` made of them.
    """

    def over_space(classes: slice) -> tuple[Tensor, Tensor, ClassContext]:
        given, guides = embed(classes)
        x = given
        for block, guide in zip(swin, guides, strict=True):
            x = block(x, guide, grid)
        attended = x if mixture is None else given
        return x, attended, class_attention.context(attended, text[:, classes], grid)

    def over_classes(x: Tensor, attended: Tensor, classes: slice) -> tuple[Tensor, Tensor | None]:
        attended = class_attention(attended, text[:, classes], context, grid)
        x = attended if mixture is None else mixture(x, attended)
        return x, finish(x) if finish is not None else None

    chunks = list(class_chunks(text.shape[1], chunk))
    parts, context = [], None
    for classes in chunks:
        *part, own = run_chunk(over_space, classes, recompute=recompute)
        parts.append(part)
        context = own if context is None else context.plus(own)
    embeddings, finished = [], []
    for i, classes in enumerate(chunks):
        x, end = run_chunk(over_classes, *parts[i], classes, recompute=recompute)
        parts[i] = None
        embeddings.append(x)
        finished.append(end)
    return torch.cat(embeddings, dim=1), torch.cat(finished, dim=1) if finish is not None else None

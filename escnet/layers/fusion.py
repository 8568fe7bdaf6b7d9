"""Vision-language fusion: refine correlation maps with image features, then with the other classes (ESC-Net, "VLF")."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from escnet.layers.chunking import class_chunks, run_chunk
from escnet.layers.class_attention import ClassAttention, ClassContext
from escnet.layers.feed_forward import projection
from escnet.layers.swin import GuidedSwinBlock

GUIDANCES = ("input", "qk", "input+qk")


class VisionLanguageFusion(nn.Module):
    """One step of refinement of the correlation maps of a vocabulary.

    Image guidance: each class's correlation is embedded to d channels together with the image features and goes through
    a pair of Swin blocks (plain and shifted windows), whose queries and keys see the image features once more. Text
    guidance: linear attention over the classes at each cell, whose queries and keys also see the text. It has no
    positional embedding, so any number of classes in any order will do. The refined map is the given one plus a learned
    change.

    Args:
        dim: d.
        feature_dim: C, channels of the image features.
        text_dim: D, channels of the text features.
        num_heads: attention heads, of the windows and of the classes.
        window: side of a window, in cells.
        mlp_ratio: width of the MLPs over d.
        guidance: where the image features enter: with the correlation (`input`), in the queries and keys of the Swin
            blocks (`qk`, as in CAT-Seg), or both (`input+qk`).

    Raises:
        ValueError: for an unknown guidance.
    """

    def __init__(
        self,
        dim: int,
        feature_dim: int,
        text_dim: int,
        num_heads: int = 4,
        window: int = 12,
        mlp_ratio: float = 4.0,
        guidance: str = "input+qk",
    ) -> None:
        super().__init__()
        if guidance not in GUIDANCES:
            raise ValueError(f"guidance must be one of {GUIDANCES}, got {guidance!r}")
        # W·[c; g] = W_c·c + W_g·g, so guidance that all classes share is projected once; here and in the Swin blocks.
        self.embed = nn.Linear(1, dim)
        self.embed_features = projection(feature_dim, dim) if "input" in guidance else None
        self.swin = nn.ModuleList(
            GuidedSwinBlock(dim, feature_dim if "qk" in guidance else 0, num_heads, window, shift, mlp_ratio)
            for shift in (0, window // 2)
        )
        self.class_attention = ClassAttention(dim, text_dim, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(dim)
        self.change = nn.Linear(dim, 1)
        # The first step leaves the correlation map as CLIP made it.
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(
        self,
        correlation: Tensor,
        embedding: Tensor | None,
        features: Tensor,
        text: Tensor,
        logit_scale: Tensor | float,
        chunk: int = 0,
        recompute: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            correlation: (B, N, h, w) cosine similarities.
            embedding: (B, N, hw, d) carried from the block before, or None.
            features: (B, hw, C) image features for all classes, or (B, N, hw, C), one for each.
            text: (B, N, D) text features.
            logit_scale: CLIP's temperature: it gives the correlation the scale of logits, and back.
            chunk: classes at a time (0: all); the result does not depend on it.
            recompute: checkpoint the activations of each chunk.

        Returns:
            The refined correlation (B, N, h, w) and the embedding (B, N, hw, d).
        """
        grid = correlation.shape[-2:]
        classes = correlation.shape[1]
        # The offset that CLIP gives to all similarities alike carries nothing, and would drown the rest.
        logits = (correlation - correlation.mean(dim=(1, 2, 3), keepdim=True)) * logit_scale
        logits = logits.flatten(2).unsqueeze(-1)
        is_shared = features.dim() == 3
        guidance = self._guide(features.unsqueeze(1)) if is_shared else None

        spatial, context = [], None
        for s in class_chunks(classes, chunk):
            carried = embedding[:, s] if embedding is not None else None
            given = guidance if is_shared else self._guide(features[:, s])
            x, part = run_chunk(
                self._aggregate_space, logits[:, s], carried, given, text[:, s], grid, recompute=recompute
            )
            spatial.append(x)
            context = part if context is None else context.plus(part)

        embeddings, changes = [], []
        for i, s in enumerate(class_chunks(classes, chunk)):
            x, change = run_chunk(self._aggregate_classes, spatial[i], text[:, s], context, recompute=recompute)
            spatial[i] = None
            embeddings.append(x)
            changes.append(change)
        refined = correlation + torch.cat(changes, dim=1).view_as(correlation) / logit_scale
        return refined, torch.cat(embeddings, dim=1)

    def _guide(self, features: Tensor) -> Guidance:
        """What (B, n, hw, C) features, n classes or 1, give to the embedding and to each Swin block."""
        embedded = self.embed_features(features) if self.embed_features is not None else None
        return Guidance(embedded, [block.guide(features) for block in self.swin])

    def _aggregate_space(
        self, logits: Tensor, carried: Tensor | None, guidance: Guidance, text: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, ClassContext]:
        x = self.embed(logits)
        for given in (carried, guidance.embedded):
            if given is not None:
                x = x + given
        for block, guide in zip(self.swin, guidance.queries_keys, strict=True):
            x = block(x, guide, grid)
        return x, self.class_attention.context(x, text)

    def _aggregate_classes(self, x: Tensor, text: Tensor, context: ClassContext) -> tuple[Tensor, Tensor]:
        x = self.class_attention(x, text, context)
        return x, self.change(self.norm(x))


class Guidance(NamedTuple):
    """The image features' share, for n classes or, with n = 1, for all.

    Attributes:
        embedded: (B, n, hw, d) of the embedding, or None.
        queries_keys: (B, n, hw, 2d) of the queries and keys of each Swin block, or None.
    """

    embedded: Tensor | None
    queries_keys: list[Tensor | None]

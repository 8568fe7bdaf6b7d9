"""Vision-language fusion: refine correlation maps with image features, then with the other classes (ESC-Net, "VLF")."""

from __future__ import annotations

from torch import Tensor, nn

from escnet.layers.aggregation import AGGREGATIONS, Guides, MixtureOfTwo, aggregate, swin_pair
from escnet.layers.class_attention import ClassAttention
from escnet.layers.feed_forward import projection

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
        aggregation: `serial`, over space and then over the classes, or `parallel`, both at once (PCA-Seg).
        class_pool: side of the squares of cells over whose mean the attention over the classes works (1: each cell).

    Raises:
        ValueError: for an unknown guidance or aggregation.
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
        aggregation: str = "serial",
        class_pool: int = 1,
    ) -> None:
        super().__init__()
        if guidance not in GUIDANCES:
            raise ValueError(f"guidance must be one of {GUIDANCES}, got {guidance!r}")
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation must be one of {AGGREGATIONS}, got {aggregation!r}")
        # W·[c; g] = W_c·c + W_g·g, so guidance that all classes share is projected once; here and in the Swin blocks.
        self.embed = nn.Linear(1, dim)
        self.embed_features = projection(feature_dim, dim) if "input" in guidance else None
        self.swin = swin_pair(dim, feature_dim if "qk" in guidance else 0, num_heads, window, mlp_ratio)
        self.class_attention = ClassAttention(dim, text_dim, num_heads, mlp_ratio, class_pool)
        self.norm = nn.LayerNorm(dim)
        self.change = nn.Linear(dim, 1)
        # The first step leaves the correlation map as CLIP made it.
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)
        self.mixture = MixtureOfTwo(dim) if aggregation == "parallel" else None

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
        # The offset that CLIP gives to all similarities alike carries nothing, and would drown the rest.
        logits = (correlation - correlation.mean(dim=(1, 2, 3), keepdim=True)) * logit_scale
        logits = logits.flatten(2).unsqueeze(-1)
        shared = self._guide(features.unsqueeze(1)) if features.dim() == 3 else None

        def embed(classes: slice) -> tuple[Tensor, Guides]:
            embedded, guides = shared if shared is not None else self._guide(features[:, classes])
            x = self.embed(logits[:, classes])
            for given in (embedding[:, classes] if embedding is not None else None, embedded):
                if given is not None:
                    x = x + given
            return x, guides

        aggregated, changes = aggregate(
            embed,
            self.swin,
            self.class_attention,
            text,
            tuple(correlation.shape[-2:]),
            mixture=self.mixture,
            finish=lambda x: self.change(self.norm(x)),
            chunk=chunk,
            recompute=recompute,
        )
        return correlation + changes.view_as(correlation) / logit_scale, aggregated

    def _guide(self, features: Tensor) -> tuple[Tensor | None, Guides]:
        """What (B, n, hw, C) features, n classes or 1, give to the embedding and to each Swin block."""
        embedded = self.embed_features(features) if self.embed_features is not None else None
        return embedded, [block.guide(features) for block in self.swin]

"""CAT-Seg's cost aggregation: CLIP's correlation maps to logits, without SAM (Cho et al., "CAT-Seg", CVPR 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from escnet.layers.aggregation import Guides, aggregate, swin_pair
from escnet.layers.class_attention import ClassAttention
from escnet.layers.unet_decoder import UNetDecoder


class CostAggregator(nn.Module):
    """The correlation maps ("cost volume") of a vocabulary are embedded once, aggregated a few times, and decoded.

    What sets it apart from ESC-Net: no SAM block; the correlation is seen once, by a 7×7 convolution, and never refined
    as a map; image and text guidance are projected once for all layers; the logits are the decoder's alone.

    Args:
        dim: d, channels of a class's embedding (128).
        image_dim: D, channels of CLIP's dense features, which guide the aggregation over space.
        text_dim: D, channels of the text features, which guide that over the classes.
        decoder: from the embeddings to logits.
        num_layers: aggregations, each over space and over the classes (2).
        num_heads, window, mlp_ratio: of their attention and MLPs (4, 12, 4).
        pool: side of the squares of cells over whose mean the class attention works (2).
    """

    def __init__(
        self,
        dim: int,
        image_dim: int,
        text_dim: int,
        decoder: UNetDecoder,
        num_layers: int = 2,
        num_heads: int = 4,
        window: int = 12,
        mlp_ratio: float = 4.0,
        pool: int = 2,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, dim, kernel_size=7, padding=3)
        self.image_guidance = nn.Sequential(nn.Conv2d(image_dim, dim, kernel_size=3, padding=1), nn.ReLU())
        self.text_guidance = nn.Sequential(nn.Linear(text_dim, dim), nn.ReLU())
        self.swin = nn.ModuleList(swin_pair(dim, dim, num_heads, window, mlp_ratio) for _ in range(num_layers))
        self.class_attention = nn.ModuleList(
            ClassAttention(dim, dim, num_heads, mlp_ratio, pool) for _ in range(num_layers)
        )
        self.decoder = decoder

    def forward(
        self,
        correlation: Tensor,
        dense: Tensor,
        levels: list[Tensor],
        text: Tensor,
        chunk: int = 0,
        recompute: bool = False,
    ) -> Tensor:
        """
        Args:
            correlation: (B, N, h, w) cosine similarities.
            dense: (B, D, h, w) CLIP's dense features.
            levels: CLIP's shallow and deep level, (B, W, h, w) each.
            text: (B, N, D) text features.
            chunk: classes at a time (0: all); the result does not depend on it.
            recompute: checkpoint the activations of each chunk.

        Returns:
            (B, N, 4h, 4w) logits.
        """
        grid = tuple(correlation.shape[-2:])
        image = self.image_guidance(dense).flatten(2).transpose(1, 2).unsqueeze(1)
        text = self.text_guidance(text)
        options = {"chunk": chunk, "recompute": recompute}
        x = self.embed(correlation.flatten(0, 1).unsqueeze(1)).flatten(2).transpose(1, 2)
        x = x.unflatten(0, correlation.shape[:2])
        for swin, class_attention in zip(self.swin, self.class_attention, strict=True):
            x = self._aggregate(x, swin, class_attention, image, text, grid, options)
        return self.decoder(x, levels, grid, **options)

    @staticmethod
    def _aggregate(
        x: Tensor,
        swin: nn.ModuleList,
        class_attention: ClassAttention,
        image: Tensor,
        text: Tensor,
        grid: tuple[int, int],
        options: dict[str, int | bool],
    ) -> Tensor:
        guides: Guides = [block.guide(image) for block in swin]
        return aggregate(lambda classes: (x[:, classes], guides), swin, class_attention, text, grid, **options)[0]

"""Heads of a merged backbone: each answers for one teacher, with a summary of the image and a feature of each cell."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.merged_backbone import BackboneFeatures

POOLINGS = ("max", "mean")


class HeadFeatures(NamedTuple):
    """What a head says of B images, in the space of its teacher."""

    summary: Tensor | None
    """(B,D) of the whole image, not normalised; None for a teacher that has none, like SAM."""
    features: Tensor
    """(B,D,h,w) of each cell."""


class Head(nn.Module, ABC):
    """What stands on the backbone for one teacher; a further teacher is a further class of this kind."""

    @abstractmethod
    def forward(self, backbone: BackboneFeatures) -> HeadFeatures:
        """Features in the space of the teacher."""


class ClipHead(Head):
    """SAM-CLIP's CLIP head: transformer blocks, pooling over the cells, LayerNorm, an MLP into the text space.

    A cell by itself goes through the same norm and MLP as the pooled feature, so that it too can be compared with
    texts (SAM-CLIP, sec. A.1 "Zero-shot transfer to semantic segmentation").

    Arguments:
      blocks: of segment_anything's ViT.
      width: W, channels of the backbone.
      embed_dim: D, dimension of the text space.
      hidden_dim: of the two hidden layers of the MLP.
      pooling: "max" (SAM-CLIP, sec. A "Model architecture") or "mean".
      most_cells: of a side of the grid that the blocks look at; a finer one is averaged, 2×2 cells or more to one
        (0: none is). The paper has 32×32 at 1024 px (sec. A.3), where the backbone has 64×64.

    Raises:
      ValueError: for an unknown pooling, or a negative number of cells.
    """

    def __init__(
        self,
        blocks: list[nn.Module],
        width: int,
        embed_dim: int,
        hidden_dim: int,
        pooling: str = "max",
        most_cells: int = 0,
    ) -> None:
        super().__init__()
        if most_cells < 0:
            raise ValueError(f"the grid of the CLIP head has {most_cells} cells to a side; it has to be 0 or more")
        if pooling not in POOLINGS:
            raise ValueError(f'pooling is "{pooling}", but must be one of {", ".join(POOLINGS)}')
        self.blocks = nn.ModuleList(blocks)
        self.pooling, self.most_cells = pooling, most_cells
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, embed_dim),
        )

    @classmethod
    def from_encoder(
        cls,
        encoder: ImageEncoderViT,
        count: int,
        embed_dim: int,
        hidden_dim: int,
        pooling: str = "max",
        most_cells: int = 0,
    ) -> ClipHead:
        """A head whose `count` blocks start as copies of an encoder's last block."""
        blocks = [copy.deepcopy(encoder.blocks[-1]) for _ in range(count)]
        return cls(blocks, encoder.patch_embed.proj.out_channels, embed_dim, hidden_dim, pooling, most_cells)

    def forward(self, backbone: BackboneFeatures) -> HeadFeatures:
        """Summary (B,D) and features (B,D,h,w), both comparable with text features once they are normalised."""
        tokens = self.tokens(backbone)
        return HeadFeatures(self.project(self.pool(tokens)), self.project(tokens).permute(0, 3, 1, 2))

    def tokens(self, backbone: BackboneFeatures) -> Tensor:
        """The output (B,h,w,W) of the head's last block, on the backbone's grid or a coarser one."""
        tokens = backbone.tokens
        grid = tokens.shape[-2:]
        if 0 < self.most_cells < max(grid):
            factor = math.ceil(max(grid) / self.most_cells)
            tokens = F.adaptive_avg_pool2d(tokens, tuple(math.ceil(side / factor) for side in grid))
        tokens = tokens.permute(0, 2, 3, 1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """(B,h,w,W) -> (B,W)"""
        return tokens.amax(dim=(1, 2)) if self.pooling == "max" else tokens.mean(dim=(1, 2))

    def project(self, tokens: Tensor) -> Tensor:
        """(...,W) -> (...,D)"""
        return self.mlp(self.norm(tokens))


class SamHead(Head):
    """SAM's side of the backbone: its features are SAM's image embedding, which the mask decoder takes as it is."""

    def forward(self, backbone: BackboneFeatures) -> HeadFeatures:
        """SAM's image embedding (B,C,h,w), no summary.

        Raises:
          ValueError: for a backbone that was run without its neck.
        """
        if backbone.neck is None:
            raise ValueError("the backbone was run without its neck, which is what SAM's head looks at")
        return HeadFeatures(None, backbone.neck)


class MergedFeatures:
    """Images encoded once: what the backbone gave, and what each head says of it, computed when it is first asked for.

    Args:
        backbone: from the backbone.
        heads: by name.
    """

    def __init__(self, backbone: BackboneFeatures, heads: Mapping[str, Head]) -> None:
        self.backbone = backbone
        self._heads = heads
        self._answers: dict[str, HeadFeatures] = {}

    def of(self, head: str) -> HeadFeatures:
        """What a head says."""
        if head not in self._answers:
            self._answers[head] = self._heads[head](self.backbone)
        return self._answers[head]

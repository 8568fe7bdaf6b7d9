"""The merged backbone as ESC-Net's image encoder: CLIP's dense features and SAM's embedding from one pass."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.merged_backbone import MergedBackbone
from escnet.layers.merged_heads import ClipHead


class MergedImageFeatures(NamedTuple):
    """What `MergedImageEncoder` returns for B images with a grid of h×w patches."""

    dense: Tensor
    """(B,D,h,w), L2-normalised: comparable with text features."""
    levels: list[Tensor]
    """Two hidden states (B,W,h,w), after one and two thirds of the blocks."""
    sam_input: Tensor
    """(B,C,h,w), SAM's image embedding: what its decoder was trained on."""


class MergedImageEncoder(nn.Module):
    """A merged backbone with its CLIP head.

    Arguments:
      backbone: SAM's image encoder.
      head: into the text space.
    """

    def __init__(self, backbone: MergedBackbone, head: ClipHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.clip_head = head
        self.width: int = backbone.width
        self.embed_dim: int = head.mlp[-1].out_features

    def forward(self, images: Tensor) -> MergedImageFeatures:
        """Encode images (B,3,R1,R2), normalised as SAM's are; R1 and R2 are multiples of the patch size.

        Raises:
          ValueError: for images of another shape.
        """
        features = self.backbone(images)
        dense = F.normalize(self.clip_head(features).features, dim=1)
        return MergedImageFeatures(dense, features.levels, features.neck)

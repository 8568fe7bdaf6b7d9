"""The merged backbone as ESC-Net's image encoder: CLIP's dense features and SAM's embedding from one pass."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.merged_backbone import MergedBackbone
from escnet.layers.merged_heads import ClipHead

SAM_INPUTS = ("sam", "clip")


class MergedImageFeatures(NamedTuple):
    """What `MergedImageEncoder` returns for B images with a grid of h×w patches."""

    dense: Tensor
    """(B,D,h,w), L2-normalised: comparable with text features."""
    levels: list[Tensor]
    """Two hidden states (B,W,h,w), after one and two thirds of the blocks."""
    sam_input: Tensor
    """What a SAM block is given: SAM's image embedding (B,C,h,w), on which its decoder was trained, or the dense
    features (B,D,h,w)."""


class MergedImageEncoder(nn.Module):
    """A merged backbone with its CLIP head.

    Arguments:
      backbone: SAM's image encoder.
      head: into the text space.
      sam_input: what a SAM block is given, one of `SAM_INPUTS`.

    Raises:
      ValueError: for another `sam_input`.
    """

    def __init__(self, backbone: MergedBackbone, head: ClipHead, sam_input: str = "sam") -> None:
        if sam_input not in SAM_INPUTS:
            raise ValueError(f"sam_input must be one of {SAM_INPUTS}, got {sam_input!r}")
        super().__init__()
        self.sam_input = sam_input
        self.backbone = backbone
        self.clip_head = head
        self.patch_size: int = backbone.patch_size
        self.width: int = backbone.width
        self.embed_dim: int = head.mlp[-1].out_features

    def forward(self, images: Tensor) -> MergedImageFeatures:
        """Encode images (B,3,R1,R2), normalised as SAM's are; R1 and R2 are multiples of the patch size.

        Raises:
          ValueError: for images of another shape.
        """
        features = self.backbone(images, neck=self.sam_input == "sam")
        dense = F.normalize(self.clip_head(features).features, dim=1)
        return MergedImageFeatures(dense, features.levels, features.neck if self.sam_input == "sam" else dense)

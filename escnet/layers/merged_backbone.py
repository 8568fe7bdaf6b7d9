"""The backbone that SAM-CLIP shares: SAM's image encoder for images of any size (SAM-CLIP, sec. 3.2)."""

from __future__ import annotations

from typing import NamedTuple

from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from escnet.layers.sam_patches import embed_patches
from escnet.layers.striped_attention import use_striped_attention


class BackboneFeatures(NamedTuple):
    """What `MergedBackbone` gives for B images with a grid of h×w patches; all that a head may look at."""

    tokens: Tensor
    """(B,W,h,w), the output of the last block."""
    neck: Tensor | None
    """(B,C,h,w), SAM's image embedding; None if it was not asked for."""
    levels: list[Tensor]
    """Two hidden states (B,W,h,w), after one and two thirds of the blocks."""


class MergedBackbone(nn.Module):
    """SAM's image encoder, a ViT with windows (ViTDet), run on images of any size.

    Absolute positions are interpolated bicubically to the grid, relative ones linearly, as SAM's attention itself does.
    Windows keep their size, and images that they do not divide are padded within the blocks, as SAM does it; so at the
    encoder's own size the features are those of segment_anything.

    Arguments:
      encoder: segment_anything's module; its parameters are this module's, and its global blocks work in strips.
    """

    def __init__(self, encoder: ImageEncoderViT) -> None:
        super().__init__()
        self.encoder = use_striped_attention(encoder)
        self.patch_size: int = encoder.patch_embed.proj.kernel_size[0]
        self.width: int = encoder.patch_embed.proj.out_channels
        self.neck_dim: int = encoder.neck[0].out_channels
        self.depth: int = len(encoder.blocks)
        self.level_blocks: tuple[int, int] = (max(1, round(self.depth / 3)), max(1, round(2 * self.depth / 3)))

    def forward(self, images: Tensor, neck: bool = True) -> BackboneFeatures:
        """Encode images.

        Arguments:
          images: (B,3,R1,R2), normalised as SAM's are; R1 and R2 are multiples of `patch_size`.
          neck: whether SAM's image embedding is computed.

        Raises:
          ValueError: for images of another shape.
        """
        tokens = embed_patches(self.encoder, images)  # (B,h,w,W)
        levels = {}
        for number, block in enumerate(self.encoder.blocks, start=1):
            tokens = block(tokens)
            if number in self.level_blocks:
                levels[number] = tokens.permute(0, 3, 1, 2)
        maps = tokens.permute(0, 3, 1, 2)
        return BackboneFeatures(
            tokens=maps,
            neck=self.encoder.neck(maps) if neck else None,
            levels=[levels[number] for number in self.level_blocks],
        )

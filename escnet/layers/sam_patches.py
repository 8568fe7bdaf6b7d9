"""What enters the first block of SAM's image encoder, for images of any size that its patches divide."""

from __future__ import annotations

from segment_anything.modeling import ImageEncoderViT
from torch import Tensor
from torch.nn import functional as F


def embed_patches(encoder: ImageEncoderViT, images: Tensor) -> Tensor:
    """Patches with their absolute positions, which are interpolated bicubically to the grid of the images.

    Arguments:
      encoder: segment_anything's module.
      images: (B,3,R1,R2), normalised as SAM's are.

    Returns:
      (B,h,w,W)

    Raises:
      ValueError: for images of another shape, or sides that the patches do not divide.
    """
    _require_shape(images, encoder.patch_embed.proj.kernel_size[0])
    tokens = encoder.patch_embed(images)
    return tokens + _positions(encoder.pos_embed, tuple(tokens.shape[1:3]))


def _positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1,h0,w0,W) of SAM's own grid to (1,h,w,W)."""
    if tuple(positions.shape[1:3]) == grid:
        return positions
    maps = positions.permute(0, 3, 1, 2).float()
    resized = F.interpolate(maps, grid, mode="bicubic", align_corners=False, antialias=True)
    return resized.permute(0, 2, 3, 1).to(positions.dtype)


def _require_shape(images: Tensor, patch_size: int) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}, but must be (B,3,R1,R2)")
    height, width = images.shape[-2:]
    if not height or not width or height % patch_size or width % patch_size:
        raise ValueError(
            f"images are {height}x{width}, but both sides must be multiples of the patch size, {patch_size}: "
            "resize or pad them"
        )

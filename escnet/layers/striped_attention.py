"""SAM's global attention for large images without its full matrix: a few rows of queries at a time.

At 1024 pixels segment_anything's attention holds 12 matrices of 4096 by 4096 numbers three times over. Queries do not
depend on each other, so they can be answered strip by strip, with the relative positions of one strip as the bias of
PyTorch's fused attention: the same result, a fraction of the memory, and less time.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional as F

# Positions from which on strips are worth it, and the rows of a strip.
LEAST_POSITIONS, ROWS = 1024, 8


class StripedAttention(Attention):
    """segment_anything's attention, in strips where no gradient is wanted and the image is large.

    Arguments:
      attention: its parameters are this module's.
      least: positions from which on strips are used.
      rows: of the grid, in a strip.
    """

    def __init__(self, attention: Attention, least: int = LEAST_POSITIONS, rows: int = ROWS) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.scale, self.use_rel_pos = attention.num_heads, attention.scale, attention.use_rel_pos
        self.qkv, self.proj = attention.qkv, attention.proj
        if self.use_rel_pos:
            self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w
        self.least, self.rows = least, rows

    def forward(self, x: Tensor) -> Tensor:
        """(B,h,w,W) -> (B,h,w,W)"""
        height, width = x.shape[1:3]
        if torch.is_grad_enabled() or height * width < self.least:
            return super().forward(x)
        # (B,heads,h·w,c) each
        query, key, value = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        strips = [
            F.scaled_dot_product_attention(
                strip, key, value, attn_mask=self._bias(strip, first, height, width), scale=self.scale
            )
            for first, strip in zip(range(0, height, self.rows), query.split(self.rows * width, dim=2), strict=True)
        ]
        return self.proj(torch.cat(strips, dim=2).transpose(1, 2).flatten(2).unflatten(1, (height, width)))

    def _bias(self, query: Tensor, first: int, height: int, width: int) -> Tensor | None:
        """(B,heads,q,h·w): what the relative positions add to the scores of the rows from `first` on."""
        if not self.use_rel_pos:
            return None
        grid = query.unflatten(2, (-1, width))  # (B,heads,rows,w,c)
        rows = get_rel_pos(height, height, self.rel_pos_h)[first : first + grid.shape[2]]
        columns = get_rel_pos(width, width, self.rel_pos_w)
        vertical = torch.einsum("bnrwc,rkc->bnrwk", grid, rows.to(grid.dtype))
        horizontal = torch.einsum("bnrwc,wkc->bnrwk", grid, columns.to(grid.dtype))
        return (vertical.unsqueeze(-1) + horizontal.unsqueeze(-2)).flatten(4).flatten(2, 3)


def use_striped_attention(encoder: ImageEncoderViT) -> ImageEncoderViT:
    """Let the global blocks of an encoder work in strips; names and values of its parameters stay. Returns it."""
    for block in encoder.blocks:
        if block.window_size == 0 and not isinstance(block.attn, StripedAttention):
            block.attn = StripedAttention(block.attn)
    return encoder

"""CLIP's image tower as contrastive training runs it: with patch dropout, on pictures and on cells of collages."""

from __future__ import annotations

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from escnet.layers.clip_image_encoder import ClipImageEncoder


class ContrastiveImageEncoder(ClipImageEncoder):
    """Features of a picture, or of each cell of a collage, from some of its patches while in training mode."""

    def pool(self, images: Tensor) -> Tensor:
        """The pooled features (B,D) alone.

        Arguments: as `forward`.

        Raises:
          ValueError: for images of another shape.
        """
        # The norm before the blocks takes each token by itself, so tokens may be dropped after it.
        tokens, last = self._before_last(self.visual.patch_dropout(self._embed(images, self._grid(images))))
        return self._run(self._pooled, last, tokens)

    def pool_cells(self, images: Tensor, cells: int) -> Tensor:
        """The mean dense feature of each cell of collages; patches are dropped in each cell alike.

        Arguments:
          images: (B,3,R1,R2) as `forward`, of cells×cells pictures of the same size.
          cells: how many to a side.

        Returns:
          (B,cells²,D), row by row; not normalised, nor are the features whose mean it is.

        Raises:
          ValueError: for images of another shape, or whose grid cannot be divided so.
        """
        height, width = self._grid(images)
        if height % cells or width % cells:
            raise ValueError(f"a grid of {height}x{width} patches cannot be divided into {cells}x{cells} cells")
        tokens = self._embed(images, (height, width))
        patches = torch.arange(height * width).view(cells, height // cells, cells, width // cells)
        patches = patches.transpose(1, 2).reshape(cells**2, -1).expand(len(images), -1, -1)
        if self.training:
            kept = max(1, int(patches.shape[-1] * (1 - getattr(self.visual.patch_dropout, "prob", 0.0))))
            patches = patches.gather(2, torch.rand(patches.shape).argsort(dim=-1)[..., :kept])
        order = patches.flatten(1).to(tokens.device)
        visible = tokens[:, 1:].gather(1, order[..., None].expand(-1, -1, tokens.shape[-1]))
        tokens, last = self._before_last(torch.cat([tokens[:, :1], visible], dim=1))
        return self._run(self._dense_tokens, last, tokens).unflatten(1, (cells**2, -1)).mean(dim=2)

    def _before_last(self, tokens: Tensor) -> tuple[Tensor, ResidualAttentionBlock]:
        """All blocks but the last, and that."""
        *blocks, last = self.visual.transformer.resblocks
        for block in blocks:
            tokens = self._run(block, tokens)
        return tokens, last

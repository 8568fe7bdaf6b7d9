"""U-Net decoder: from class embeddings on CLIP's grid to logits four times finer (ESC-Net, "decoder")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.chunking import class_chunks, run_chunk


class UNetDecoder(nn.Module):
    """Two upsampling stages with skip connections from CLIP's intermediate levels.

    Each stage: bilinear upsampling by 2, then two 3×3 convolutions with GroupNorm. The 1×1 convolution before a stage
    stands in front of the upsampling, with which it commutes. The skip's share of the first 3×3 convolution is the
    same for all classes and is computed once.

    Args:
        dim: d, channels of the embedding.
        level_dim: channels of each of CLIP's levels.
        stage_dims: channels of the two stages.
        skip_dims: channels to which the deep and the shallow level are brought.
    """

    def __init__(
        self, dim: int, level_dim: int, stage_dims: tuple[int, int] = (64, 32), skip_dims: tuple[int, int] = (32, 16)
    ) -> None:
        super().__init__()
        inputs = (dim, stage_dims[0])
        self.skips = nn.ModuleList(
            nn.ConvTranspose2d(level_dim, width, kernel_size=scale, stride=scale)
            for width, scale in zip(skip_dims, (2, 4), strict=True)
        )
        self.stages = nn.ModuleList(
            UpsamplingStage(*widths) for widths in zip(inputs, stage_dims, skip_dims, strict=True)
        )
        self.head = nn.Conv2d(stage_dims[1], 1, kernel_size=3, padding=1)

    def forward(
        self,
        embedding: Tensor,
        levels: list[Tensor],
        grid: tuple[int, int],
        chunk: int = 0,
        recompute: bool = False,
    ) -> Tensor:
        """
        Args:
            embedding: (B, N, hw, d).
            levels: the shallow and the deep level, (B, W, h, w) each.
            grid: (h, w).
            chunk: classes at a time (0: all).
            recompute: checkpoint the activations of each chunk.

        Returns:
            (B, N, 4h, 4w) logits.
        """
        shallow, deep = levels
        skips = [
            stage.skip(deconvolution(level))
            for stage, deconvolution, level in zip(self.stages, self.skips, (deep, shallow), strict=True)
        ]
        logits = [
            run_chunk(self._decode, embedding[:, s], skips, grid, recompute=recompute)
            for s in class_chunks(embedding.shape[1], chunk)
        ]
        return torch.cat(logits, dim=1)

    def _decode(self, embedding: Tensor, skips: list[Tensor], grid: tuple[int, int]) -> Tensor:
        batch, classes = embedding.shape[:2]
        x = embedding.flatten(0, 1).transpose(1, 2).unflatten(2, grid)
        for stage, skip in zip(self.stages, skips, strict=True):
            x = stage(x, skip, classes)
        return self.head(x).view(batch, classes, *x.shape[-2:])


class UpsamplingStage(nn.Module):
    """Upsample class maps by 2 and merge them with a skip connection that the classes share."""

    def __init__(self, in_dim: int, dim: int, skip_dim: int, groups: int = 16) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_dim, dim, kernel_size=1)
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False)
        self.skip = nn.Conv2d(skip_dim, dim, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(min(groups, dim), dim)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(min(groups, dim), dim)

    def forward(self, x: Tensor, skip: Tensor, classes: int) -> Tensor:
        """(B·n, in, h, w) and the convolved skip (B, dim, 2h, 2w) to (B·n, dim, 2h, 2w)."""
        x = F.interpolate(self.reduce(x), scale_factor=2, mode="bilinear", align_corners=False)
        x = self.conv1(x).unflatten(0, (-1, classes))
        x += skip.unsqueeze(1)
        x = F.relu(self.norm1(x.flatten(0, 1)), inplace=True)
        return F.relu(self.norm2(self.conv2(x)), inplace=True)

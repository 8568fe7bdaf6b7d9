"""CLIP's image tower: dense, intermediate and pooled features of images of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

DENSE_ATTENTION = ("value", "qq", "kk", "vv", "qk")


class ClipFeatures(NamedTuple):
    """What `ClipImageEncoder` returns for B images with a grid of h×w patches."""

    dense: Tensor
    """(B,D,h,w), L2-normalised: comparable with text features."""
    levels: list[Tensor]
    """Two hidden states (B,W,h,w), after one and two thirds of the blocks."""
    pooled: Tensor | None
    """(B,D), the image feature of CLIP itself, not normalised; None if it was not asked for."""
    projected: Tensor | None = None
    """(B,D,h,w), what `dense` is before it is normalised; None if it was not asked for."""

    @property
    def sam_input(self) -> Tensor:
        """(B,D,h,w), what a SAM block is given, through a projection: the dense features."""
        return self.dense


class ClipImageEncoder(nn.Module):
    """The image tower of CLIP for images of any size (ESC-Net, sec. 3: F_v).

    The dense features come from the last block with its attention replaced:
    "value" by the value and output projections alone (MaskCLIP), "qq", "kk" and "vv" by multi-head attention of queries
    with queries, keys with keys or values with values (over all tokens, the class token included), "qk" by the ordinary
    attention. With several blocks, they come from a path beside the plain one (CLIP Surgery: "vv" in the last 6): what
    enters the first of them, plus the output of such an attention in each, which looks at the plain path's tokens; the
    MLPs are left out.

    Arguments:
      visual: a plain ViT of open_clip; kept as it is, its parameters are this module's.
      dense: one of `DENSE_ATTENTION`.
      dense_residual: whether the last block's residual and MLP are kept for the dense features; if not, they are the
        output of the attention branch alone.
      dense_blocks: how many of the last blocks have such an attention; more than one are a path of their own, which
        `dense_residual` lets begin with the tokens that enter it.

    Raises:
      TypeError: for a tower that is not a plain ViT. ValueError: for an unknown `dense`, fewer than 2 blocks, or fewer
        than the path has.
    """

    def __init__(
        self, visual: nn.Module, dense: str = "value", dense_residual: bool = True, dense_blocks: int = 1
    ) -> None:
        super().__init__()
        _require_plain_vit(visual)
        if dense not in DENSE_ATTENTION:
            raise ValueError(f'dense is "{dense}", but must be one of {", ".join(DENSE_ATTENTION)}')
        self.visual = visual
        self.dense = dense
        self.dense_residual = dense_residual
        self.patch_size: int = visual.patch_size[0]
        self.width: int = visual.conv1.out_channels
        self.embed_dim: int = visual.output_dim
        self.depth: int = len(visual.transformer.resblocks)
        if self.depth < 2:
            raise ValueError("a tower with 1 block has no hidden state before its last block; at least 2 are needed")
        if not 1 <= dense_blocks <= self.depth:
            raise ValueError(f"MODEL.CLIP.DENSE_BLOCKS is {dense_blocks}, and the image tower has {self.depth} blocks")
        self.dense_blocks = dense_blocks
        self.level_blocks: tuple[int, int] = (max(1, round(self.depth / 3)), max(1, round(2 * self.depth / 3)))

    def forward(self, images: Tensor, pooled: bool = True, projected: bool = False) -> ClipFeatures:
        """Encode images.

        Arguments:
          images: (B,3,R1,R2), normalised with CLIP's mean and deviation; R1 and R2 are multiples of `patch_size`.
          pooled: whether the pooled feature is computed.
          projected: whether the dense features are also given as they are before they are normalised.

        Raises:
          ValueError: for images of another shape.
        """
        # Patch dropout, a saving for contrastive training, would tear holes into the map, so it is not applied.
        grid = self._grid(images)
        tokens = self._embed(images, grid)  # (B,1+h·w,W), the class token first
        levels, path = {}, None
        *blocks, last = self.visual.transformer.resblocks
        for number, block in enumerate(blocks, start=1):
            if number > self.depth - self.dense_blocks:
                path = self._run(self._along_path, block, tokens, path)
            tokens = self._run(block, tokens)
            if number in self.level_blocks:
                levels[number] = _to_map(tokens[:, 1:], grid)

        dense = self._run(self._dense_tokens, last, tokens, path)
        return ClipFeatures(
            dense=_to_map(F.normalize(dense, dim=-1), grid),
            levels=[levels[number] for number in self.level_blocks],
            pooled=self._run(self._pooled, last, tokens) if pooled else None,
            projected=_to_map(dense, grid) if projected else None,
        )

    def pool(self, images: Tensor) -> Tensor:
        """The pooled features (B,D) alone; arguments and errors as of `forward`."""
        tokens = self._embed(images, self._grid(images))
        *blocks, last = self.visual.transformer.resblocks
        for block in blocks:
            tokens = self._run(block, tokens)
        return self._run(self._pooled, last, tokens)

    def hidden_tokens(self, images: Tensor) -> Tensor:
        """The tokens (B,1+h·w,W) after the last block, the class token first; arguments and errors as of `forward`."""
        tokens = self._embed(images, self._grid(images))
        for block in self.visual.transformer.resblocks:
            tokens = self._run(block, tokens)
        return tokens

    def _grid(self, images: Tensor) -> tuple[int, int]:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images have shape {tuple(images.shape)}, but must be (B,3,R1,R2)")
        height, width = images.shape[-2:]
        if height < self.patch_size or width < self.patch_size or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"images are {height}x{width}, but both sides must be multiples of the patch size, {self.patch_size}: "
                "resize or pad them"
            )
        return height // self.patch_size, width // self.patch_size

    def _embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        position = interpolate_positions(visual.positional_embedding, visual.grid_size, grid)
        return visual.ln_pre(torch.cat([class_token, patches], dim=1) + position.to(patches.dtype))

    def _run(self, step: Callable[..., Tensor], *arguments: object) -> Tensor:
        if self.visual.transformer.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(step, *arguments, use_reentrant=False)
        return step(*arguments)

    def _along_path(self, block: ResidualAttentionBlock, tokens: Tensor, path: Tensor | None) -> Tensor:
        """The path (B,h·w,W) after a block that the plain path's tokens (B,1+h·w,W) enter; None before the first."""
        x = block.ls_1(_dense_attention(block.attn, block.ln_1(tokens), self.dense))
        if path is None:
            return tokens[:, 1:] + x if self.dense_residual else x
        return path + x

    def _dense_tokens(self, block: ResidualAttentionBlock, tokens: Tensor, path: Tensor | None = None) -> Tensor:
        """The last block with `dense` attention, then CLIP's projection: (B,1+h·w,W) -> (B,h·w,D)."""
        if path is not None:
            return self.visual.ln_post(self._along_path(block, tokens, path)) @ self.visual.proj
        x = block.ls_1(_dense_attention(block.attn, block.ln_1(tokens), self.dense))
        if self.dense_residual:
            x = tokens[:, 1:] + x
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return self.visual.ln_post(x) @ self.visual.proj

    def _pooled(self, block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
        """The last block unchanged and the tower's own pooling: (B,1+h·w,W) -> (B,D)."""
        visual = self.visual
        if visual.pool_type == "avg":
            x = block(tokens)[:, 1:]
            x = x.mean(dim=1) if visual.final_ln_after_pool else visual.ln_post(x).mean(dim=1)
            return (visual.ln_post(x) if visual.final_ln_after_pool else x) @ visual.proj

        # Only the class token is read, so only its query is computed; norm and pooling commute.
        normalised = block.ln_1(tokens)
        attended = block.attn(normalised[:, :1], normalised, normalised, need_weights=False)[0]
        x = tokens[:, :1] + block.ls_1(attended)
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        return visual.ln_post(x[:, 0]) @ visual.proj


def interpolate_positions(embedding: Tensor, old_grid: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Resize a ViT's positional embedding bicubically, the class token's row apart: (1+h0·w0,W) -> (1+h·w,W)."""
    if tuple(old_grid) == tuple(grid):
        return embedding
    maps = _to_map(embedding[None, 1:].float(), old_grid)
    resized = F.interpolate(maps, size=grid, mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([embedding[:1], resized[0].flatten(1).T.to(embedding.dtype)])


def _dense_attention(attention: nn.MultiheadAttention, tokens: Tensor, kind: str) -> Tensor:
    """The attention branch of the patches for one of `DENSE_ATTENTION`: (B,1+h·w,W) -> (B,h·w,W)."""
    weights = dict(zip("qkv", attention.in_proj_weight.chunk(3), strict=True))
    biases = dict(zip("qkv", attention.in_proj_bias.chunk(3), strict=True))

    def project(x: Tensor, part: str) -> Tensor:
        return F.linear(x, weights[part], biases[part])

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    if kind == "value":
        return attention.out_proj(project(tokens[:, 1:], "v"))
    query, key = kind
    attended = F.scaled_dot_product_attention(
        heads(project(tokens[:, 1:], query)), heads(project(tokens, key)), heads(project(tokens, "v"))
    )
    return attention.out_proj(attended.transpose(1, 2).flatten(2))


def _to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B,h·w,W) -> (B,W,h,w)"""
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def _require_plain_vit(visual: nn.Module) -> None:
    kind = type(visual).__name__
    if not isinstance(visual, VisionTransformer):
        raise TypeError(f"{kind} is not a VisionTransformer of open_clip; use a model with a plain ViT, e.g. ViT-B-16")
    if visual.attn_pool is not None:
        raise TypeError(f"{kind} with an {type(visual.attn_pool).__name__} has no features per patch in text space")
    if visual.pool_type not in ("tok", "avg"):
        raise TypeError(f'{kind} with pool_type "{visual.pool_type}" has no pooled feature')
    if visual.patch_size[0] != visual.patch_size[1]:
        raise TypeError(f"{kind} has patches of {visual.patch_size}, which are not square")
    for block in visual.transformer.resblocks:
        if not isinstance(block, ResidualAttentionBlock):
            raise TypeError(f"{kind} with a {type(block).__name__} is not a plain ViT")

"""The common part of models whose weights have other names: CLIP's image tower, SAM's encoder, SAM within SAM-CLIP."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from escnet.pretrained.files import WeightsError
from escnet.pretrained.merging import interpolate

Tensors = Mapping[str, Tensor]
_ENCODER, _TOWER = "image_encoder.", "visual."
# What a block of SAM's encoder calls its parts, and one of CLIP's tower. Both order queries, keys and values alike.
_BLOCK_PARTS = {
    "norm1.weight": "ln_1.weight",
    "norm1.bias": "ln_1.bias",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj.weight": "attn.out_proj.weight",
    "attn.proj.bias": "attn.out_proj.bias",
    "norm2.weight": "ln_2.weight",
    "norm2.bias": "ln_2.bias",
    "mlp.lin1.weight": "mlp.c_fc.weight",
    "mlp.lin1.bias": "mlp.c_fc.bias",
    "mlp.lin2.weight": "mlp.c_proj.weight",
    "mlp.lin2.bias": "mlp.c_proj.bias",
}
# Channels of an attention head, in all of CLIP's towers up to ViT-L.
_HEAD_WIDTH = 64


class VitSize(NamedTuple):
    """What two ViTs have to have in common for their blocks to be partners."""

    width: int
    depth: int
    mlp_width: int
    head_width: int
    patch_size: int

    def __str__(self) -> str:
        return (
            f"width {self.width}, {self.depth} blocks, MLP {self.mlp_width}, heads of {self.head_width} channels, "
            f"patches of {self.patch_size}"
        )


def average_sam_and_clip(sam: Tensors, clip: Tensors, alpha: float, head_width: int = _HEAD_WIDTH) -> dict[str, Tensor]:
    """A SAM whose image encoder is averaged with a CLIP's image tower: (1 - α) SAM + α CLIP.

    Partners are all that the blocks hold but SAM's relative positions, the convolution of the patches without its bias,
    and the absolute positions, CLIP's resized to SAM's grid without that of the class token. What has no partner stays
    SAM's. It is SAM that the result is: its windows and its GELU stay too, whatever CLIP was trained with.

    Args:
        sam: the weights of a whole SAM, by segment_anything's names.
        clip: those of a CLIP, by open_clip's names.
        alpha: α, 0 to 1.
        head_width: channels of a head of CLIP's tower, which its weights do not tell.

    Raises:
        ValueError: α is out of its range.
        WeightsError: weights of other models, or a CLIP of another size than SAM's encoder; the message says which.
    """
    partners = clip_as_sam_encoder(sam, clip, head_width)
    return {**sam, **interpolate({name: sam[name] for name in partners}, partners, alpha)}


def clip_as_sam_encoder(sam: Tensors, clip: Tensors, head_width: int = _HEAD_WIDTH) -> dict[str, Tensor]:
    """The tensors of a CLIP's image tower that have a partner in SAM, by SAM's names; see `average_sam_and_clip`."""
    ours, theirs = sam_size_of(sam), clip_size_of(clip, head_width)
    if ours != theirs:
        raise WeightsError(
            f"SAM's encoder has {ours}, but CLIP's image tower {theirs}: their blocks are partners only where these "
            "are equal, as of SAM ViT-B and CLIP ViT-B/16; merge two models that share an ancestor instead"
        )
    found = {
        f"{_ENCODER}blocks.{number}.{name}": clip[f"{_TOWER}transformer.resblocks.{number}.{partner}"]
        for number in range(ours.depth)
        for name, partner in _BLOCK_PARTS.items()
    }
    found[f"{_ENCODER}patch_embed.proj.weight"] = clip[f"{_TOWER}conv1.weight"]
    positions = f"{_ENCODER}pos_embed"
    found[positions] = _resized_positions(clip[f"{_TOWER}positional_embedding"], tuple(sam[positions].shape[1:3]))
    return found


def sam_as_sam_clip(sam: Tensors, tuned: Tensors) -> dict[str, Tensor]:
    """A SAM-CLIP before it was tuned: SAM's weights where it has them, the tuned ones where SAM has none.

    So its CLIP head and text encoder are the tuned ones, and the two can be interpolated (SAM-CLIP, sec. B: α = 0).

    Args:
        sam: the weights of a whole SAM, by segment_anything's names.
        tuned: those of a SAM-CLIP.

    Raises:
        WeightsError: a tensor of SAM is not in the SAM-CLIP, or has another shape there.
    """
    renamed = {
        re.sub(rf"^{re.escape(_ENCODER)}", "backbone.encoder.", name): value
        for name, value in sam.items()
        if name not in ("pixel_mean", "pixel_std")
    }
    strange = [name for name, value in renamed.items() if name not in tuned or tuned[name].shape != value.shape]
    if strange or not renamed:
        example = f", such as {strange[0]}" if strange else ""
        raise WeightsError(f"{len(strange)} of {len(renamed)} tensors of SAM are not in the SAM-CLIP{example}")
    return {**tuned, **renamed}


def is_sam(weights: Tensors) -> bool:
    """Whether weights are a whole SAM's by segment_anything's names."""
    return any(name.startswith(_ENCODER) for name in weights)


def is_clip(weights: Tensors) -> bool:
    """Whether weights are a CLIP's by open_clip's names."""
    return any(name.startswith(_TOWER) for name in weights)


def sam_size_of(weights: Tensors) -> VitSize:
    """The size of SAM's image encoder, read from its weights.

    Raises:
        WeightsError: they are not SAM's.
    """
    try:
        projection = weights[f"{_ENCODER}patch_embed.proj.weight"]
        first = f"{_ENCODER}blocks.0."
        mlp_width, head_width = len(weights[f"{first}mlp.lin1.weight"]), weights[f"{first}attn.rel_pos_h"].shape[1]
    except KeyError as error:
        raise WeightsError(f"these are not the weights of a SAM in segment_anything's format: no {error}") from None
    depth = _depth(weights, rf"{_ENCODER}blocks\.(\d+)\.")
    return VitSize(len(projection), depth, mlp_width, head_width, projection.shape[-1])


def clip_size_of(weights: Tensors, head_width: int = _HEAD_WIDTH) -> VitSize:
    """The size of CLIP's image tower, read from its weights; the width of a head is given.

    Raises:
        WeightsError: they are not those of a CLIP with a plain ViT.
    """
    try:
        projection = weights[f"{_TOWER}conv1.weight"]
        first = f"{_TOWER}transformer.resblocks.0."
        mlp_width = len(weights[f"{first}mlp.c_fc.weight"])
    except KeyError as error:
        raise WeightsError(
            f"these are not the weights of a CLIP with a ViT in open_clip's format: no {error}"
        ) from None
    if f"{first}ls_1.gamma" in weights:
        raise WeightsError("the blocks of this CLIP scale their branches (ls_1.gamma), which SAM's blocks cannot")
    depth = _depth(weights, rf"{_TOWER}transformer\.resblocks\.(\d+)\.")
    return VitSize(len(projection), depth, mlp_width, head_width, projection.shape[-1])


def _depth(weights: Tensors, pattern: str) -> int:
    return 1 + max(int(match[1]) for name in weights if (match := re.match(pattern, name)))


def _resized_positions(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """CLIP's positions (1+g·g,W), without the class token's, as SAM's (1,h,w,W)."""
    side = math.isqrt(len(embedding) - 1)
    if side * side != len(embedding) - 1:
        raise WeightsError(f"CLIP has {len(embedding) - 1} positions, which are no square")
    maps = embedding[1:].float().unflatten(0, (side, side)).permute(2, 0, 1)[None]
    if grid != (side, side):
        maps = F.interpolate(maps, grid, mode="bicubic", align_corners=False, antialias=True)
    return maps.permute(0, 2, 3, 1).to(embedding.dtype)

"""Hugging Face's names of the weights of CLIP and SAM, and what open_clip and segment_anything call them."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

Rules = tuple[tuple[str, str], ...]

# A name becomes the first of these that describes all of it; what stands in both begins and ends alike.
_CLIP_RULES: Rules = (
    (r"vision_model\.embeddings\.class_embedding", r"visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", r"visual.conv1.weight"),
    (r"vision_model\.embeddings\.position_embedding\.weight", r"visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.(\w+)", r"visual.ln_pre.\1"),  # their spelling
    (r"vision_model\.post_layernorm\.(\w+)", r"visual.ln_post.\1"),
    (r"vision_model\.encoder\.layers\.(.+)", r"visual.transformer.resblocks.\1"),
    (r"text_model\.embeddings\.token_embedding\.weight", r"token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", r"positional_embedding"),
    (r"text_model\.final_layer_norm\.(\w+)", r"ln_final.\1"),
    (r"text_model\.encoder\.layers\.(.+)", r"transformer.resblocks.\1"),
)
_CLIP_BLOCK_RULES: Rules = (
    (r"(.+\.resblocks\.\d+)\.layer_norm([12])\.(\w+)", r"\1.ln_\2.\3"),
    (r"(.+\.resblocks\.\d+)\.mlp\.fc1\.(\w+)", r"\1.mlp.c_fc.\2"),
    (r"(.+\.resblocks\.\d+)\.mlp\.fc2\.(\w+)", r"\1.mlp.c_proj.\2"),
    (r"(.+\.resblocks\.\d+)\.self_attn\.out_proj\.(\w+)", r"\1.attn.out_proj.\2"),
)
_CLIP_PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
_SAM_RULES: Rules = (
    (r"vision_encoder\.pos_embed", r"image_encoder.pos_embed"),
    (r"vision_encoder\.patch_embed\.projection\.(\w+)", r"image_encoder.patch_embed.proj.\1"),
    (r"vision_encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)", r"image_encoder.blocks.\1.norm\2.\3"),
    (r"vision_encoder\.layers\.(\d+)\.((?:attn|mlp)\..+)", r"image_encoder.blocks.\1.\2"),
    (r"vision_encoder\.neck\.conv1\.(\w+)", r"image_encoder.neck.0.\1"),
    (r"vision_encoder\.neck\.layer_norm1\.(\w+)", r"image_encoder.neck.1.\1"),
    (r"vision_encoder\.neck\.conv2\.(\w+)", r"image_encoder.neck.2.\1"),
    (r"vision_encoder\.neck\.layer_norm2\.(\w+)", r"image_encoder.neck.3.\1"),
    (r"shared_image_embedding\.positional_embedding", r"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"prompt_encoder\.point_embed\.(\d+)\.weight", r"prompt_encoder.point_embeddings.\1.weight"),
    (r"prompt_encoder\.mask_embed\.conv1\.(\w+)", r"prompt_encoder.mask_downscaling.0.\1"),
    (r"prompt_encoder\.mask_embed\.layer_norm1\.(\w+)", r"prompt_encoder.mask_downscaling.1.\1"),
    (r"prompt_encoder\.mask_embed\.conv2\.(\w+)", r"prompt_encoder.mask_downscaling.3.\1"),
    (r"prompt_encoder\.mask_embed\.layer_norm2\.(\w+)", r"prompt_encoder.mask_downscaling.4.\1"),
    (r"prompt_encoder\.mask_embed\.conv3\.(\w+)", r"prompt_encoder.mask_downscaling.6.\1"),
    (
        r"mask_decoder\.transformer\.layers\.(\d+)\.layer_norm(\d)\.(\w+)",
        r"mask_decoder.transformer.layers.\1.norm\2.\3",
    ),
    (r"mask_decoder\.transformer\.layer_norm_final_attn\.(\w+)", r"mask_decoder.transformer.norm_final_attn.\1"),
    (r"mask_decoder\.upscale_conv1\.(\w+)", r"mask_decoder.output_upscaling.0.\1"),
    (r"mask_decoder\.upscale_layer_norm\.(\w+)", r"mask_decoder.output_upscaling.1.\1"),
    (r"mask_decoder\.upscale_conv2\.(\w+)", r"mask_decoder.output_upscaling.3.\1"),
    (r"(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.proj_in\.(\w+)", r"\1.layers.0.\2"),
    (r"(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.layers\.0\.(\w+)", r"\1.layers.1.\2"),
    (r"(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.proj_out\.(\w+)", r"\1.layers.2.\2"),
)
_CLIP_MARK = "vision_model.pre_layrnorm.weight"
_SAM_MARK = "shared_image_embedding.positional_embedding"
# The file has these twice, or they are no weights.
_LEFT_OUT = re.compile(r"(vision|text)_model\.embeddings\.position_ids|prompt_encoder\.shared_embedding\..+")


def from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of Hugging Face's CLIPModel or SamModel under the names and shapes of open_clip and segment_anything.

    A name that is not known stays; all other weights come back as they are.
    """
    if _CLIP_MARK not in state and _SAM_MARK not in state:
        return state
    state = {name: value for name, value in state.items() if not _LEFT_OUT.fullmatch(name)}
    if _SAM_MARK in state:
        return {_rename(name, _SAM_RULES): value for name, value in state.items()}
    for theirs, ours in _CLIP_PROJECTIONS.items():
        if theirs in state:
            state[ours] = state.pop(theirs).T
    renamed = {_rename(_rename(name, _CLIP_RULES), _CLIP_BLOCK_RULES): value for name, value in state.items()}
    return _join_attention(renamed)


def _rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return name


def _join_attention(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values, which open_clip has in one matrix in this order."""
    joined = {}
    for name, value in state.items():
        match = re.fullmatch(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        trio = [f"{match[1]}.self_attn.{part}_proj.{match[3]}" for part in "qkv"] if match else []
        if not match or not all(part in state for part in trio):
            joined[name] = value
        elif match[2] == "q":
            joined[f"{match[1]}.attn.in_proj_{match[3]}"] = torch.cat([state[part] for part in trio])
    return joined

"""The parts of an ESC-Net, built from a configuration: image and text encoder, prompt encoder, blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from open_clip.model import CLIP
from torch import nn

from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.esc_block import ESCBlock
from escnet.layers.fusion import VisionLanguageFusion
from escnet.layers.image_projection import ImageProjection
from escnet.layers.merged_backbone import MergedBackbone
from escnet.layers.merged_heads import ClipHead
from escnet.layers.merged_image_encoder import MergedImageEncoder
from escnet.layers.sam_block import SamBlock
from escnet.layers.sam_prompt_encoder import SamPromptEncoder
from escnet.layers.trainable_attention import trainable_attention_parameters
from escnet.meta_arch.clip import clip_image_encoder
from escnet.pretrained.clip import build_clip
from escnet.pretrained.loading import load_exactly
from escnet.pretrained.reading import read_weights
from escnet.pretrained.recognition import SAM_CLIP
from escnet.pretrained.sam import SamWeights, build_sam, build_sam_decoder, read_sam, sam_size

BACKBONES = ("clip", "sam_clip")
SAM_INITS = ("pretrained", "random", "none")
SAM_TRAINED = ("none", "attention", "all")
MERGED_TRAINED = ("none", "attention", "all")


class EscNetParts(NamedTuple):
    """What `build_parts` builds; see `ESCNet`."""

    image_encoder: ClipImageEncoder | MergedImageEncoder
    clip_text: ClipTextEncoder
    logit_scale: float
    prompt_encoder: SamPromptEncoder | None
    blocks: list[ESCBlock]


def build_parts(cfg: Any) -> EscNetParts:
    """Build the parts; the public weights are read unless MODEL.WEIGHTS brings all of them.

    Raises:
        ValueError: for an unknown value.
        WeightsError: weights that are missing or do not fit.
    """
    if cfg.MODEL.ESC.BACKBONE not in BACKBONES:
        raise ValueError(f"MODEL.ESC.BACKBONE must be one of {BACKBONES}, got {cfg.MODEL.ESC.BACKBONE!r}")
    brings_all = bool(cfg.MODEL.WEIGHTS)
    is_merged = cfg.MODEL.ESC.BACKBONE == "sam_clip"
    # A merged model has the text tower that its CLIP head was taught with.
    clip, tokenizer = build_clip(cfg.MODEL.CLIP.NAME, "" if brings_all or is_merged else cfg.MODEL.CLIP.WEIGHTS)
    clip_text = ClipTextEncoder(clip, tokenizer)
    trainable_attention_parameters(clip_text, cfg.MODEL.CLIP.TRAIN)
    weights, logit_scale = _sam_weights(cfg, is_merged, brings_all), clip.logit_scale.exp().item()
    if is_merged:
        image_encoder = _merged_image_encoder(cfg, clip, weights)
        if weights is not None:
            _load_merged(clip_text, weights, "clip_text.", {"MODEL.CLIP.NAME": cfg.MODEL.CLIP.NAME})
            logit_scale = weights.tensors["logit_scale"].item()
    else:
        image_encoder = clip_image_encoder(clip.visual, cfg)
        trainable_attention_parameters(image_encoder, cfg.MODEL.CLIP.TRAIN)
    prompt_encoder, blocks = _build_blocks(cfg, image_encoder.embed_dim, weights, is_merged)
    return EscNetParts(image_encoder, clip_text, logit_scale, prompt_encoder, blocks)


def _sam_weights(cfg: Any, is_merged: bool, brings_all: bool) -> SamWeights | None:
    """The file that SAM's parts come from: SAM's own, or that of the merged model, which has the same names for them.

    Raises:
        ValueError: a merged model is asked for without weights.
    """
    sam = cfg.MODEL.SAM
    if sam.INIT not in SAM_INITS:
        raise ValueError(f"MODEL.SAM.INIT must be one of {SAM_INITS}, got {sam.INIT!r}")
    if brings_all:
        return None
    if is_merged:
        path = cfg.MODEL.SAM_CLIP.WEIGHTS
        if not path:
            raise ValueError(
                "MODEL.ESC.BACKBONE is sam_clip: set MODEL.SAM_CLIP.WEIGHTS to a checkpoint of SAM-CLIP, or to "
                "shipped:sam_clip"
            )
        return SamWeights(read_weights(path), path)
    return read_sam(sam.NAME, sam.WEIGHTS) if sam.INIT == "pretrained" and sam.WEIGHTS else None


def _merged_image_encoder(cfg: Any, clip: CLIP, weights: SamWeights | None) -> MergedImageEncoder:
    if cfg.MODEL.CLIP.TRAIN not in MERGED_TRAINED:
        raise ValueError(f"with MODEL.ESC.BACKBONE sam_clip, MODEL.CLIP.TRAIN must be one of {MERGED_TRAINED}")
    own, encoder = cfg.MODEL.SAM_CLIP, build_sam(cfg.MODEL.SAM.NAME).image_encoder
    backbone = MergedBackbone(encoder)
    hidden_dim = own.HIDDEN_DIM or backbone.width
    head = ClipHead.from_encoder(encoder, own.HEAD_BLOCKS, clip.visual.output_dim, hidden_dim, own.POOLING)
    if weights is not None:
        _load_merged(backbone, weights, "backbone.", {"MODEL.SAM.NAME": cfg.MODEL.SAM.NAME})
        sizes = {f"MODEL.SAM_CLIP.{key}": own[key] for key in ("HIDDEN_DIM", "HEAD_BLOCKS")}
        _load_merged(head, weights, "clip_head.", {"MODEL.CLIP.NAME": cfg.MODEL.CLIP.NAME} | sizes)
    merged = MergedImageEncoder(backbone, head, own.SAM_INPUT)
    trained = cfg.MODEL.CLIP.TRAIN
    for name, parameter in merged.named_parameters():
        parameter.requires_grad_(trained == "all" or (trained == "attention" and ".attn." in name))
    return merged


def _load_merged(module: nn.Module, weights: SamWeights, prefix: str, sizes: Mapping[str, object]) -> None:
    """Load a part of the file of MODEL.SAM_CLIP.WEIGHTS.

    Args:
        module: the part.
        weights: the file.
        prefix: of the part's names in the file.
        sizes: the keys that set the sizes of the part, and their values.

    Raises:
        WeightsError: the file lacks the part, or has it in other sizes; says which keys set them.
    """
    own = ", ".join(f"{key} ({value})" for key, value in sizes.items())
    remedy = f"Its sizes are set by {own}: set them as they were when MODEL.SAM_CLIP.WEIGHTS was trained"
    load_exactly(module, weights.tensors, weights.source, remedy, prefix, SAM_CLIP)


def _build_blocks(
    cfg: Any, clip_dim: int, weights: SamWeights | None, is_merged: bool
) -> tuple[SamPromptEncoder | None, list[ESCBlock]]:
    """SAM's prompt encoder and the ESC blocks, each with its own copy of SAM's transformer."""
    sam, esc = cfg.MODEL.SAM, cfg.MODEL.ESC
    if sam.TRAIN not in SAM_TRAINED:
        raise ValueError(f"MODEL.SAM.TRAIN must be one of {SAM_TRAINED}, got {sam.TRAIN!r}")
    read = weights if weights is not None and sam.INIT == "pretrained" else ""
    blocks, encoder = [], None
    sam_dim = sam_size(sam.NAME).channels
    for _ in range(esc.NUM_BLOCKS):
        sam_block = None
        if sam.INIT != "none":
            encoder, transformer = build_sam_decoder(sam.NAME, read)
            sam_block = SamBlock(transformer)
            _set_trainable_sam(sam_block, "all" if sam.INIT == "random" else sam.TRAIN)
        fusion = VisionLanguageFusion(
            esc.DIM,
            sam_dim,
            clip_dim,
            esc.NUM_HEADS,
            esc.WINDOW,
            esc.MLP_RATIO,
            esc.GUIDANCE,
            esc.AGGREGATION,
            esc.CLASS_POOL,
        )
        blocks.append(ESCBlock(_projection(cfg, clip_dim, is_merged), sam_dim, sam_block, fusion, esc.CLASS_MERGE))
    if encoder is None:
        return None, blocks
    return SamPromptEncoder(encoder.requires_grad_(False), esc.PROMPTS, esc.MASK_ENCODING, esc.MASK_LOGIT), blocks


def _projection(cfg: Any, clip_dim: int, is_merged: bool) -> nn.Module:
    """From what the image encoder gives to the channels of the SAM block."""
    if is_merged and cfg.MODEL.SAM_CLIP.SAM_INPUT == "sam":
        return nn.Identity()
    return ImageProjection(clip_dim, sam_size(cfg.MODEL.SAM.NAME).channels)


def _set_trainable_sam(block: SamBlock, which: str) -> None:
    for name, parameter in block.named_parameters():
        parameter.requires_grad_(which == "all" or (which == "attention" and "attn" in name))

"""The parts of CLIP-Guided SAM, built from a configuration, and which of them are trained."""

from __future__ import annotations

from typing import Any, NamedTuple

from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import nn

from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.guided_image_encoder import AdapterSettings, GuidedImageEncoder
from escnet.layers.low_rank import add_low_rank, low_rank_parameters
from escnet.layers.pixels import PixelNormalisation
from escnet.layers.trainable_attention import trainable_attention_parameters
from escnet.meta_arch.clip import clip_image_encoder
from escnet.meta_arch.image_size import fitting_size
from escnet.pretrained.clip import build_clip
from escnet.pretrained.sam import build_sam

TRAINED = ("adapters", "mask_decoder", "prompt_encoder")


class GuidedParts(NamedTuple):
    """The modules of a `ClipGuidedSam`.

    Attributes:
        encoder: SAM's image encoder with adapters.
        prompt_encoder, mask_decoder: SAM's.
        clip_image, clip_text: CLIP's towers.
        logit_scale: CLIP's temperature.
        normalise, normalise_clip: pixels as SAM, and as CLIP sees them.
        image_size: side of SAM's square images.
        clip_size: (height, width) of CLIP's.
    """

    encoder: GuidedImageEncoder
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder
    clip_image: ClipImageEncoder
    clip_text: ClipTextEncoder
    logit_scale: float
    normalise: PixelNormalisation
    normalise_clip: PixelNormalisation
    image_size: int
    clip_size: tuple[int, int]


def build_parts(cfg: Any) -> GuidedParts:
    """Build the parts, with the public weights unless MODEL.WEIGHTS brings all of them.

    Raises:
        ValueError: a value of MODEL.GUIDED cannot be used.
        WeightsError: weights are missing or do not fit.
    """
    own, brings_all = cfg.MODEL.GUIDED, bool(cfg.MODEL.WEIGHTS)
    if own.CLIP_PIXELS not in ("clip", "sam"):
        raise ValueError(f"MODEL.GUIDED.CLIP_PIXELS is {own.CLIP_PIXELS!r}; it has to be clip or sam")
    clip, tokenizer = build_clip(cfg.MODEL.CLIP.NAME, "" if brings_all else cfg.MODEL.CLIP.WEIGHTS)
    sam = build_sam(cfg.MODEL.SAM.NAME, "" if brings_all else cfg.MODEL.SAM.WEIGHTS)
    clip_image = clip_image_encoder(clip.visual, cfg)
    settings = AdapterSettings(
        tuple(own.ADAPTERS), tuple(own.BLOCKS), own.BOTTLENECK, own.SCALE, own.ZERO_START, own.INNER_SKIP,
        tuple(own.SIGNALS),
    )  # fmt: skip
    if own.LORA:
        add_low_rank(sam.image_encoder, own.LORA)
    encoder = GuidedImageEncoder(sam.image_encoder, clip_image.embed_dim, settings, own.CHECKPOINT)
    side = own.IMAGE_SIZE or sam.image_encoder.img_size
    parts = GuidedParts(
        encoder=encoder,
        prompt_encoder=sam.prompt_encoder,
        mask_decoder=sam.mask_decoder,
        clip_image=clip_image,
        clip_text=ClipTextEncoder(clip, tokenizer),
        logit_scale=clip.logit_scale.exp().item(),
        normalise=PixelNormalisation.of_sam(),
        normalise_clip=PixelNormalisation.of_sam() if own.CLIP_PIXELS == "sam" else PixelNormalisation(),
        image_size=fitting_size("MODEL.GUIDED.IMAGE_SIZE", (side, side), encoder.patch_size)[0],
        clip_size=fitting_size("MODEL.CLIP.IMAGE_SIZE", cfg.MODEL.CLIP.IMAGE_SIZE, clip_image.patch_size),
    )
    _set_trainable(parts, own.TRAIN, cfg.MODEL.CLIP.TRAIN)
    return parts


def _set_trainable(parts: GuidedParts, trained: tuple[str, ...], of_clip: str) -> None:
    unknown = [name for name in trained if name not in TRAINED]
    if unknown:
        raise ValueError(f"MODEL.GUIDED.TRAIN has {unknown[0]!r}; there are {', '.join(TRAINED)}")
    parts.encoder.requires_grad_(False)
    own: list[nn.Module] = [parts.encoder.plain, parts.encoder.semantic]
    for module in own:
        module.requires_grad_("adapters" in trained)
    for parameter in low_rank_parameters(parts.encoder.encoder):
        parameter.requires_grad_("adapters" in trained)
    parts.mask_decoder.requires_grad_("mask_decoder" in trained)
    parts.prompt_encoder.requires_grad_("prompt_encoder" in trained)
    parts.clip_text.requires_grad_(False)
    trainable_attention_parameters(parts.clip_image, of_clip)

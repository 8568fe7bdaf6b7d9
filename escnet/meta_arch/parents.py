"""The models that others are merged from, each by itself behind its interface, built from the same configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.meta_arch.clip import ClassifyingClip
from escnet.meta_arch.image_size import fitting_size
from escnet.meta_arch.sam import PromptableSam
from escnet.pretrained.clip import build_clip
from escnet.pretrained.sam import build_sam


def build_parent(name: str, cfg: Any, weights: str = "") -> nn.Module:
    """Build a parent in evaluation mode on MODEL.DEVICE.

    Args:
        name: one of `PARENTS`: "clip" is MODEL.CLIP, "sam" is MODEL.SAM.
        cfg: the configuration.
        weights: of the parent alone, in its own format; "" for those of the configuration.

    Raises:
        ValueError: there is no such parent, or its patches do not divide the configured size of images.
        WeightsError: weights that are missing or do not fit.
    """
    if name not in PARENTS:
        raise ValueError(f"there is no system {name}; choose of {', '.join(PARENTS)}")
    return PARENTS[name].build(cfg, weights).to(cfg.MODEL.DEVICE).eval()


def _clip(cfg: Any, weights: str) -> ClassifyingClip:
    clip, tokenizer = build_clip(cfg.MODEL.CLIP.NAME, weights or cfg.MODEL.CLIP.WEIGHTS)
    text, scale = ClipTextEncoder(clip, tokenizer), clip.logit_scale.exp().item()
    encoder = ClipImageEncoder(clip.visual)
    size = fitting_size("MODEL.CLIP.IMAGE_SIZE", cfg.MODEL.CLIP.IMAGE_SIZE, encoder.patch_size)
    return ClassifyingClip(encoder, text, scale, size)


def _sam(cfg: Any, weights: str) -> PromptableSam:
    return PromptableSam(build_sam(cfg.MODEL.SAM.NAME, weights or cfg.MODEL.SAM.WEIGHTS))


class Parent(NamedTuple):
    """A model that others are merged from.

    Attributes:
        kind: of the model.
        build: from a configuration and weights.
    """

    kind: type[nn.Module]
    build: Callable[[Any, str], nn.Module]


PARENTS = {"clip": Parent(ClassifyingClip, _clip), "sam": Parent(PromptableSam, _sam)}

"""The models that others are merged from or compared with, by name: the CLIP and the SAM of a configuration."""

from __future__ import annotations

from typing import Any

from torch import nn

from escnet.layers.clip_image_encoder import ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.meta_arch.clip import ClassifyingClip
from escnet.meta_arch.sam import PromptableSam
from escnet.pretrained.clip import build_clip
from escnet.pretrained.sam import build_sam


def clip_of(cfg: Any) -> ClassifyingClip:
    """The CLIP of MODEL.CLIP, with its weights, on the CPU."""
    clip, tokenizer = build_clip(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.WEIGHTS)
    image = ClipImageEncoder(clip.visual, cfg.MODEL.CLIP.DENSE, cfg.MODEL.CLIP.DENSE_RESIDUAL)
    scale = clip.logit_scale.exp().item()
    return ClassifyingClip(image, ClipTextEncoder(clip, tokenizer), scale, cfg.MODEL.CLIP.IMAGE_SIZE)


def sam_of(cfg: Any) -> PromptableSam:
    """The SAM of MODEL.SAM, with its weights, on the CPU."""
    return PromptableSam(build_sam(cfg.MODEL.SAM.NAME, cfg.MODEL.SAM.WEIGHTS))


# The parent and the node of the configuration that names its weights.
PARENTS = {"clip": (clip_of, "CLIP"), "sam": (sam_of, "SAM")}


def build_parent(cfg: Any, name: str) -> nn.Module:
    """A parent by its name, "clip" or "sam", frozen, in evaluation mode, on MODEL.DEVICE.

    Raises:
        ValueError: another name.
        WeightsError: its weights are missing or do not fit.
    """
    if name not in PARENTS:
        raise ValueError(f"there is no parent {name!r}; choose of {', '.join(PARENTS)}")
    build, _ = PARENTS[name]
    return build(cfg).eval().requires_grad_(False).to(cfg.MODEL.DEVICE)

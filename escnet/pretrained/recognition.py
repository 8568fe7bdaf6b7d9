"""What a set of weights belongs to, by their names: a file that was given in another's place is told as what it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class WeightFormat:
    """Weights that are known by their names.

    Attributes:
      name: what they are, as a sentence says it.
      names: a regular expression; one name that begins with it tells them.
      remedy: what to do with them.
    """

    name: str
    names: str
    remedy: str


_ANOTHER_MODEL = "it is of no use here: take the weights of a CLIP (MODEL.CLIP.WEIGHTS) or SAM (MODEL.SAM.WEIGHTS)"
SAM_CLIP = WeightFormat(
    "a checkpoint of SAM-CLIP",
    r"clip_head\.",
    "pass it as MODEL.WEIGHTS with MODEL.META_ARCHITECTURE SamClip, or as MODEL.SAM_CLIP.WEIGHTS",
)
# The first that fits counts.
FORMATS = (
    WeightFormat("a checkpoint of this project", r"clip_image\.", "pass it as MODEL.WEIGHTS, or --weights"),
    SAM_CLIP,
    WeightFormat("a checkpoint of ESC-Net on SAM-CLIP", r"merged_image\.", "pass it as MODEL.WEIGHTS, or --weights"),
    WeightFormat(
        "SAM 2", r"image_encoder\.trunk\.|sam_mask_decoder\.", "only the first SAM is read: vit_b, vit_l, vit_h"
    ),
    WeightFormat(
        "SAM in segment_anything's format",
        r"image_encoder\.(pos_embed|patch_embed|blocks|neck)|mask_decoder\.|prompt_encoder\.",
        "pass it as MODEL.SAM.WEIGHTS",
    ),
    WeightFormat(
        "a model of Hugging Face's other than their CLIPModel and SamModel",
        r"vision_model\.|text_model\.|vision_encoder\.",
        "take the file of CLIPModel or SamModel, or one in the format of open_clip or segment_anything",
    ),
    WeightFormat(
        "CLIP in open_clip's format", r"visual\.|token_embedding\.|text\.transformer\.", "pass it as MODEL.CLIP.WEIGHTS"
    ),
    WeightFormat("a ViT alone, as timm or DINO save it", r"cls_token|blocks\.\d+\.attn\.qkv\.", _ANOTHER_MODEL),
    WeightFormat("a ResNet", r"layer1\.0\.conv1\.|(backbone|stem|bottom_up)\.", _ANOTHER_MODEL),
)


def recognise(names: Iterable[str]) -> WeightFormat | None:
    """The format that weights of these names have; None if it is not known."""
    names = list(names)
    matches = (form for form in FORMATS if any(re.match(form.names, name) for name in names))
    return next(matches, None)

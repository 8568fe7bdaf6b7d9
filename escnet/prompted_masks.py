"""Masks that a model draws from what a user points at: segment_anything's way, without a label map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.nn import functional as F

from escnet.meta_arch.interfaces import PromptableModel
from escnet.meta_arch.sliding_window import WindowedFeatures
from escnet.vocabulary import Vocabulary
from escnet.word_prompts import PromptError, WordPrompts


@dataclass(frozen=True)
class PromptedMasks:
    """The answer to one prompt.

    Attributes:
        masks: (m, H, W) bool, one mask or, of an ambiguous prompt, several candidates.
        quality: (m,) float32, the IoU that the model expects of each.
    """

    masks: np.ndarray
    quality: np.ndarray

    @property
    def likeliest(self) -> np.ndarray:
        """(H, W) bool: the mask of which the model expects most."""
        return self.masks[self.quality.argmax()]


def require_mask_drawing(model: nn.Module, with_word: bool, with_prompts: bool) -> None:
    """Refuse a question to which a model has no answer.

    Raises:
        PromptError: it draws no masks from prompts, or takes no words beside them; or there are neither.
    """
    name = type(model).__name__
    if not isinstance(model, PromptableModel):
        raise PromptError(f"{name} draws no masks from prompts; segment the image by words instead")
    if with_word and not model.takes_words:
        raise PromptError(f"{name} draws masks from prompts without words; leave the word out")
    if not with_word and not with_prompts:
        words = ", or a word" if model.takes_words else ""
        raise PromptError(f"there is nothing to point at; give points, a box or a mask{words}")


def draw_masks(
    model: PromptableModel,
    features: Any,
    size: tuple[int, int],
    prompts: WordPrompts | None,
    word: Vocabulary | None,
    multimask: bool,
) -> PromptedMasks:
    """Ask a model for the masks of one prompt; `require_mask_drawing` says what it can be asked.

    Args:
        model: in evaluation mode.
        features: of one image, from its `encode`.
        size: (H, W) of the image.
        prompts: None for the word alone.
        word: of one row; None for no word.
        multimask: several candidates, or one.

    Raises:
        PromptError: the prompts do not fit the image.
    """
    whole = features.whole if isinstance(features, WindowedFeatures) else features
    given = None if prompts is None else prompts.for_model(model, size)
    answer = model.masks(whole, given, word, multimask)
    masks = F.interpolate(answer.logits.float(), size, mode="bilinear", align_corners=False)[0] > 0
    return PromptedMasks(masks.cpu().numpy(), answer.quality[0].float().cpu().numpy())

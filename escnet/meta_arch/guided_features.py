"""What CLIP-Guided SAM knows of images before it is given words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from escnet.layers.clip_image_encoder import ClipFeatures
from escnet.layers.guided_image_encoder import SharedState
from escnet.meta_arch.interfaces import Prompts


@dataclass(frozen=True)
class GuidedFeatures:
    """What is known of B images before words are.

    Attributes:
        state: of SAM's image encoder.
        clip: CLIP's features of them.
        vision: (B,D,h,w) its dense features as adapters take them.
        rows: (P,) the image of each prompt; None: each in its place, or the one for all.
        given: what a user points at, by rows of the vocabulary.
        remembered: SAM's image embeddings of the last words that were asked for, and their similarities.
    """

    state: SharedState
    clip: ClipFeatures
    vision: Tensor
    rows: Tensor | None = None
    given: Mapping[int, Prompts] = field(default_factory=dict)
    remembered: dict[Any, tuple[Tensor, Tensor | None]] = field(default_factory=dict)

    def of_image(self, index: int) -> GuidedFeatures:
        """One image."""
        rows = slice(index, index + 1)
        clip = ClipFeatures(self.clip.dense[rows], [], None if self.clip.pooled is None else self.clip.pooled[rows])
        return GuidedFeatures(self.state.of_images(rows), clip, self.vision[rows], given=self.given)

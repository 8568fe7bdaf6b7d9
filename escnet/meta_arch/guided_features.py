"""What CLIP-Guided SAM knows of images before it is given words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from escnet.layers.clip_image_encoder import ClipFeatures
from escnet.layers.correlation import mean_of_neighbours
from escnet.layers.guided_image_encoder import SharedState
from escnet.layers.semantic_adapter import WordSignals
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
    remembered: dict[Any, tuple[Tensor, ...]] = field(default_factory=dict)

    def of_image(self, index: int) -> GuidedFeatures:
        """One image."""
        rows = slice(index, index + 1)
        clip = ClipFeatures(self.clip.dense[rows], [], None if self.clip.pooled is None else self.clip.pooled[rows])
        return GuidedFeatures(self.state.of_images(rows), clip, self.vision[rows], given=self.given)

    def signals(self, text: Tensor, images: Tensor, smoothing: int) -> WordSignals:
        """What CLIP says of words.

        Args:
            text: (P,D) their features.
            images: (P,) in which image each is looked for.
            smoothing: side of the squares of cells over which similarities are averaged.
        """
        if len(self.vision) == 1:
            similarity = torch.einsum("pd,dhw->phw", text, self.vision[0])
        else:
            similarity = torch.einsum("pd,pdhw->phw", text, self.vision[images])
        if smoothing > 1:
            similarity = mean_of_neighbours(similarity[:, None], smoothing)[:, 0]
        return WordSignals(text, similarity, images)

    def remember(self, key: Any, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What was computed last for these words, or is now; nothing is kept that a gradient may be asked of."""
        if torch.is_grad_enabled():
            return compute()
        # Read once: another thread may ask for other words meanwhile.
        known = self.remembered.get(key)
        if known is None:
            known = compute()
            self.remembered.clear()
            self.remembered[key] = known
        return known

"""The interface of models that draw masks from points, boxes, masks and, if they can, words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from escnet.vocabulary import Vocabulary

# Inside a mask that is known, as a logit; outside its negative. SAM was trained on logits of its own, which are large.
KNOWN_MASK_LOGIT = 8.0


@dataclass(frozen=True)
class Prompts:
    """P prompts of the same form, for masks of any images.

    Attributes:
        points: (P, n, 2) clicks (x, y), as indices of pixels of the model's square input; n may be 0.
        labels: (P, n) 1 on the object, 0 beside it.
        boxes: (P, 4) corners (x1, y1, x2, y2), in the same coordinates; the outer edge of pixel i is at i - 0.5.
        masks: (P, 1, 4h, 4w) logits of an earlier prediction, for an h×w grid.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None

    @classmethod
    def from_boxes(cls, boxes: Tensor) -> Prompts:
        """Boxes (P, 4) without clicks."""
        return cls(boxes.new_zeros(len(boxes), 0, 2), boxes.new_zeros(len(boxes), 0), boxes)

    def to(self, device: torch.device | str) -> Prompts:
        """The same on a device."""
        boxes, masks = (None if given is None else given.to(device) for given in (self.boxes, self.masks))
        return Prompts(self.points.to(device), self.labels.to(device), boxes, masks)

    def with_clicks(self, points: Tensor, labels: Tensor) -> Prompts:
        """One click more each: (P, 2) and (P,)."""
        points = torch.cat([self.points, points[:, None]], dim=1)
        return replace(self, points=points, labels=torch.cat([self.labels, labels[:, None]], dim=1))

    def with_masks(self, logits: Tensor) -> Prompts:
        """(P, 4h, 4w) logits in place of the earlier ones."""
        return replace(self, masks=logits[:, None])


@dataclass(frozen=True)
class AskedWords:
    """What P prompts ask for.

    Attributes:
        vocabulary: the words.
        rows: (P,) the row of each prompt.
    """

    vocabulary: Vocabulary
    rows: Tensor

    @classmethod
    def of(cls, words: Vocabulary | AskedWords, count: int) -> AskedWords:
        """The words of so many prompts; of a vocabulary the only row for all, or the p-th for the p-th.

        Raises:
            ValueError: there are neither one nor as many words as prompts.
        """
        if isinstance(words, Vocabulary):
            number = len(words.rows)
            words = cls(words, torch.zeros(count, dtype=torch.long) if number == 1 else torch.arange(number))
        if len(words.rows) != count:
            raise ValueError(
                f"there are {len(words.rows)} words for {count} prompts; give one word for all, or one for each"
            )
        return words


class MaskPrediction(NamedTuple):
    """The answer to P prompts.

    Attributes:
        logits: (P, m, 4h, 4w) mask logits, m candidates for each prompt.
        quality: (P, m) the IoU that the model expects of each.
    """

    logits: Tensor
    quality: Tensor

    def likeliest(self) -> Tensor:
        """(P, 4h, 4w): of each prompt's masks the one of which the model expects most."""
        return self.logits[torch.arange(len(self.logits), device=self.logits.device), self.quality.argmax(dim=1)]


class PromptableModel(nn.Module, ABC):
    """A model that draws masks from points, boxes, masks and, if it can, words.

    Attributes:
        takes_words: `masks` is to be told what the objects are, and can then do without prompts.
    """

    takes_words: ClassVar[bool] = False

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Side of the square, in pixels, to which images are brought and in which prompts are given."""

    @property
    @abstractmethod
    def mask_size(self) -> tuple[int, int]:
        """(height, width) of the mask logits."""

    @abstractmethod
    def encode(self, images: Tensor) -> Any:
        """The features (B, C, h, w) of raw images (3, H, W) or (B, 3, H, W) in 0..255, made square."""

    def mask_prompt(self, region: Tensor) -> Tensor:
        """Masks that are known, (P, 4h, 4w) bool of the size `mask_size`, as `Prompts.masks`: (P, 1, 4h, 4w) logits."""
        return KNOWN_MASK_LOGIT * (2 * region[:, None].float() - 1)

    def of_images(self, features: Any, rows: Tensor) -> Any:
        """The features of the images `rows` (P,), one for each prompt, from those of B images."""
        return features[rows.to(features.device)]

    @abstractmethod
    def masks(
        self,
        features: Any,
        prompts: Prompts | None,
        words: Vocabulary | AskedWords | None = None,
        multimask: bool = False,
    ) -> MaskPrediction:
        """Answer prompts.

        Args:
            features: from `of_images`, of each prompt's image (P, ...); or from `encode`, of one image for all.
            prompts: P of them; None for a model that takes words, which then makes its own for each.
            words: what the objects are, for a model that takes words: one for all prompts, or one for each.
            multimask: several candidates for an ambiguous prompt, or one.

        Raises:
            ValueError: words for a model that takes none, no prompts for one that needs them, or other numbers of both.
        """

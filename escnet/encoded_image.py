"""An image that a model has encoded once, to be asked for words, with prompts or without, and for masks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from escnet.meta_arch.interfaces import Prompts, SegmentingModel
from escnet.meta_arch.segmentation import Segmentation
from escnet.prompted_masks import PromptedMasks, draw_masks, require_mask_drawing
from escnet.segmentation_result import SegmentationResult
from escnet.vocabulary import Vocabulary
from escnet.word_lists import WordList
from escnet.word_prompts import PromptsOfWords, WordPrompts, model_prompts, prompts_by_row


class SegmentsImages(Protocol):
    """What has encoded an image: a `Segmenter`."""

    model: SegmentingModel
    templates: str | Sequence[str]

    def vocabulary(self, vocabulary: WordList | str | Vocabulary, background: WordList | str = ()) -> Vocabulary:
        """The words of a call."""

    def postprocess(self, pixels: np.ndarray, segmentation: Segmentation, vocabulary: Vocabulary) -> SegmentationResult:
        """The result of one image."""


@contextmanager
def evaluating(model: SegmentingModel) -> Iterator[SegmentingModel]:
    """The model in evaluation mode, which a training beside may have changed; nothing is recorded for gradients."""
    if model.training:
        model.eval()
    with torch.no_grad():
        yield model


@dataclass(frozen=True)
class EncodedImage:
    """An image that `Segmenter.encode` has encoded: a call with words costs no further pass of the image encoder.

    Attributes:
        segmenter: by which.
        pixels: (H, W, 3) uint8 RGB.
        features: what the model has of it.
    """

    segmenter: SegmentsImages
    pixels: np.ndarray = field(repr=False)
    features: Any = field(repr=False)

    def __call__(
        self,
        vocabulary: WordList | str | Vocabulary,
        background: WordList | str = (),
        prompts: PromptsOfWords | None = None,
    ) -> SegmentationResult:
        """Segment the image; words and prompts as for `Segmenter.__call__`.

        Raises:
            VocabularyError: for words that cannot be used.
            PromptError: for prompts that cannot be used, or a model that takes none for words.
        """
        words = self.segmenter.vocabulary(vocabulary, background)
        named = prompts_by_row(prompts or {}, words, type(self.segmenter.model))
        return self.segment(words, model_prompts(named, self.segmenter.model, self.pixels.shape[:2]))

    def masks(
        self,
        word: str | None = None,
        points: Sequence[Sequence[float]] = (),
        labels: Sequence[int] | None = None,
        box: Sequence[float] | None = None,
        mask: np.ndarray | Tensor | str | os.PathLike | None = None,
        multimask: bool = False,
    ) -> PromptedMasks:
        """What is pointed at, as SAM answers it, for a model that draws masks from prompts: no words compete.

            street.masks(points=[(120, 80)], multimask=True)
            street.masks("cat", box=(90, 40, 200, 160)).masks[0]

        Args:
            word: what the object is, with synonyms after "," or "|", for a model that takes words: then it can do
                without prompts.
            points, labels, box, mask: as for `WordPrompts`.
            multimask: several candidates for an ambiguous prompt, or one mask.

        Raises:
            PromptError: for prompts that cannot be used, or a model that has no answer to them.
            VocabularyError: for a word that cannot be used.
        """
        # An empty list of points, or a mask of the wrong kind, is something that was given.
        has_prompts = len(points) > 0 or any(x is not None for x in (labels, box, mask))
        require_mask_drawing(self.segmenter.model, word is not None, has_prompts)
        prompts = WordPrompts(points, labels, box, mask) if has_prompts else None
        words = None if word is None else Vocabulary([word], templates=self.segmenter.templates)
        with evaluating(self.segmenter.model) as model:
            return draw_masks(model, self.features, self.pixels.shape[:2], prompts, words, multimask)

    def segment(self, words: Vocabulary, given: Mapping[int, Prompts]) -> SegmentationResult:
        """Segment the image by words, with prompts of some of their rows in the model's own form."""
        with evaluating(self.segmenter.model) as model:
            features = model.with_prompts(self.features, given) if given else self.features
            segmentation = model.segment(features, words)
        return self.segmenter.postprocess(self.pixels, segmentation.of_image(0), words)

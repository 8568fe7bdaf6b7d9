"""The interface of models that name whole images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from escnet.vocabulary import Vocabulary


class ClassifyingModel(nn.Module, ABC):
    """A model with a feature of the whole image that is comparable with those of texts, as CLIP has it.

    Attributes:
        logit_scale: () factor of the cosine similarity before a softmax over classes.
        image_size: (height, width) to which images are brought.
    """

    logit_scale: Tensor
    image_size: tuple[int, int]

    @abstractmethod
    def encode(self, images: Tensor) -> Any:
        """The features of raw images (3, H, W) or (B, 3, H, W) in 0..255, RGB, of any size."""

    @abstractmethod
    def summary(self, features: Any) -> Tensor:
        """(B, D) L2-normalised feature of each image, from what `encode` gave."""

    @abstractmethod
    def text_features(self, vocabulary: Vocabulary) -> Tensor:
        """(rows, D) L2-normalised features of the rows of a vocabulary."""

    @abstractmethod
    def sentence_features(self, sentences: Sequence[str]) -> Tensor:
        """(n, D) L2-normalised features of whole sentences, without templates; the end of a long one is cut off."""

    def classify(self, features: Any, vocabulary: Vocabulary) -> Tensor:
        """(B, rows) probability of each row of a vocabulary, that it names the image."""
        similarity = self.summary(features) @ self.text_features(vocabulary).T
        return (self.logit_scale * similarity.float()).softmax(dim=-1)

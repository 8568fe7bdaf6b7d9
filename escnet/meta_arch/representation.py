"""The interface of models whose hidden states are looked at: heads and classifiers are trained on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class RepresentingModel(nn.Module, ABC):
    """A model that shows the hidden states of its image encoder (SAM-CLIP, sec. A.2 "Head-probing evaluations").

    Images are raw pixels (B, 3, R1, R2) in 0..255, RGB, of which both sides are multiples of `patch_size`. They are
    normalised as the model was trained, and never resized: the size at which a model is probed is the prober's.

    Attributes:
        representations: names of the hidden states that can be asked for. The first, which every model has, is that
            after the last block of the image encoder.
    """

    representations: ClassVar[tuple[str, ...]] = ("backbone",)

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """Side of a cell in pixels."""

    @abstractmethod
    def representation(self, images: Tensor, name: str = "backbone") -> Tensor:
        """A hidden state of each cell of images, (B, W, h, w).

        Raises:
            ValueError: for an unknown name, or images that the patches do not divide.
        """

    def pooled_representation(self, images: Tensor, name: str = "backbone") -> Tensor:
        """A hidden state of whole images, (B, W): by default the mean over their cells.

        Raises:
            ValueError: as `representation`.
        """
        return self.representation(images, name).mean(dim=(2, 3))

    def check_representation(self, name: str) -> None:
        """Refuse the name of a hidden state that the model does not have.

        Raises:
            ValueError: as said.
        """
        if name not in self.representations:
            raise ValueError(
                f"{type(self).__name__} shows no representation {name!r}, only {', '.join(self.representations)}"
            )

"""A stand-in for the model, whose labels come from colours, in a segmenter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from escnet import Vocabulary
from escnet.meta_arch.segmentation import Segmentation, join_images
from escnet.meta_arch.segmenting import InferenceOptions
from escnet.predictor import Segmenter

CELLS = 8


class ColourModel(nn.Module):
    """In the place of a model: 8 by 8 cells of logits from colours and from where in the tile they are.

    With `keep`, the rows that are best somewhere, which differ from tile to tile.
    """

    def __init__(self, keep: int = 0) -> None:
        super().__init__()
        self.inference = InferenceOptions((16, 16))
        self.device, self.keep = torch.device("cpu"), keep
        self.passes: list[int] = []

    def encode(self, images: Tensor | list[Tensor]) -> Tensor:
        images = [images] if isinstance(images, Tensor) else images
        self.passes.append(len(images))
        return torch.cat([nn.functional.adaptive_avg_pool2d(image[None].float(), CELLS) for image in images]) / 255

    def segment(self, cells: Tensor, vocabulary: Vocabulary) -> Segmentation:
        weights = torch.randn(len(vocabulary.rows), 3, generator=torch.Generator().manual_seed(0))
        place = torch.linspace(-1, 1, CELLS) * weights[:, :1, None]
        logits = 9 * torch.einsum("rc,bchw->brhw", weights, cells - 0.5) + place
        if not self.keep:
            return Segmentation(logits)
        rows = [image.amax((1, 2)).topk(self.keep).indices.sort().values for image in logits]
        return join_images([Segmentation(image[None, own], own[None]) for image, own in zip(logits, rows, strict=True)])


@pytest.fixture
def colour_segmenter() -> Callable[[int], Segmenter]:
    """Makes a segmenter; of a tile, it keeps so many rows of the vocabulary, or all."""
    return lambda keep=0: Segmenter(ColourModel(keep))

"""Parts of the systems as modules for export: encode an image; rank words by CLIP's maps; segment by words.

Each takes any number of words. How many go from one to the next depends on the picture, so that this is left to who
runs them (`escnet.onnx_segmenter`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.class_choice import regional_shares
from escnet.layers.clip_image_encoder import ClipFeatures
from escnet.layers.correlation import correlation_maps
from escnet.layers.merged_image_encoder import MergedImageFeatures
from escnet.meta_arch.correlation_model import Candidates, CorrelationModel
from escnet.meta_arch.interfaces import SegmentingModel
from escnet.meta_arch.sam_clip import SamClip


def resized(model: SegmentingModel, image: Tensor) -> Tensor:
    """An image (H, W, 3) uint8 as the model takes it, (1, 3, R1, R2); at its own size too, which a graph leaves open.

    Resized to its own size, an image does not change.
    """
    pixels = image.permute(2, 0, 1)[None].float()
    return F.interpolate(pixels, model.inference.image_size, mode="bilinear", align_corners=False, antialias=True)


class Stage(nn.Module):
    """A part of a model; features are (1, D, h, w), and of a correlation model two levels and perhaps SAM's input."""

    def __init__(self, model: SegmentingModel) -> None:
        super().__init__()
        self.model = model

    def words(self, dense: Tensor, text: Tensor) -> Candidates:
        """All of the words whose features are (N, D)."""
        correlation = correlation_maps(dense, text, self.model.smoothing)
        return Candidates(correlation, text[None], torch.arange(text.shape[0])[None])


class EncodeForCorrelation(Stage):
    """An image (H, W, 3) uint8 of any size to features."""

    model: CorrelationModel

    def forward(self, image: Tensor) -> list[Tensor]:
        """To (1, D, h, w), two levels and perhaps SAM's input."""
        features = self.model.encode_pixels(resized(self.model, image))
        sam_input = [features.sam_input] if isinstance(features, MergedImageFeatures) else []
        return [features.dense, *features.levels, *sam_input]


class RankByMaps(Stage):
    """What CLIP's maps say of words."""

    model: CorrelationModel

    def forward(self, features: list[Tensor], text: Tensor) -> Tensor:
        """(N, D) words to the share (1, N) by which they are ranked."""
        return regional_shares(self.model.map_logits(self.words(features[0], text).correlation))


class RankByFirstPass(Stage):
    """What the first blocks say of words."""

    model: CorrelationModel

    def forward(self, features: list[Tensor], text: Tensor) -> Tensor:
        """(N, D) words to the share (1, N) by which they are ranked."""
        words = self.words(features[0], text)
        early = self.model.early_logits(_features(features), words)
        return regional_shares(early, early.shape[-1] // words.correlation.shape[-1])


class SegmentByCorrelation(Stage):
    """A whole pass over words that compete."""

    model: CorrelationModel

    def forward(self, features: list[Tensor], text: Tensor) -> tuple[Tensor, Tensor]:
        """(M, D) words to logits (1, M, H', W'), and to the share (1, M) by which these rank them."""
        words = self.words(features[0], text)
        logits = self.model.refine(_features(features), words).logits
        return logits, regional_shares(logits, logits.shape[-1] // words.correlation.shape[-1])


class EncodeForClipHead(Stage):
    """An image (H, W, 3) uint8 of any size to what SAM-CLIP's CLIP head says of its cells."""

    model: SamClip

    def forward(self, image: Tensor) -> list[Tensor]:
        """To (1, D, h, w)."""
        features = self.model.encode_pixels(resized(self.model, image), neck=False)
        return [F.normalize(features.of("clip").features, dim=1)]


class SegmentByClipHead(Stage):
    """SAM-CLIP's label map from its CLIP head alone."""

    model: SamClip

    def forward(self, features: list[Tensor], text: Tensor) -> Tensor:
        """(M, D) words to logits (1, M, h, w)."""
        return correlation_maps(features[0], text, self.model.smoothing) * self.model.logit_scale


def _features(tensors: list[Tensor]) -> ClipFeatures | MergedImageFeatures:
    dense, *levels = tensors
    if len(levels) == 3:
        return MergedImageFeatures(dense, levels[:2], levels[2])
    return ClipFeatures(dense, levels, None)

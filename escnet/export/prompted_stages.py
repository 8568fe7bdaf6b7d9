"""The systems that draw masks of words with SAM's decoder, as modules for export: encode, ask, draw, and segment.

Masks are drawn a few words at a time, as many as who runs the graphs likes: hence a graph of their own.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.export.stages import Stage, resized
from escnet.layers.class_choice import regional_shares
from escnet.layers.clip_image_encoder import ClipFeatures
from escnet.layers.correlation import correlation_maps
from escnet.layers.guided_image_encoder import SharedState
from escnet.meta_arch.clip_guided_sam import ClipGuidedSam
from escnet.meta_arch.guided_features import GuidedFeatures
from escnet.meta_arch.mask_scores import MaskScores
from escnet.meta_arch.sam_clip import SamClip, uniform_numbers


class TraceablePromptEncoder(PromptEncoder):
    """segment_anything's prompt encoder, whose kinds of points are chosen by `where`: an index is not traced.

    Args:
        encoder: its parameters are this module's, by the same names.
    """

    def __init__(self, encoder: PromptEncoder) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(encoder.__dict__)

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        points = points + 0.5
        if pad:
            points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1.0)
        places, kinds = self.pe_layer.forward_with_coords(points, self.input_image_size), labels[..., None]
        beside, on_object = (places + self.point_embeddings[kind].weight for kind in (0, 1))
        placed = torch.where(kinds == 1, on_object, torch.where(kinds == 0, beside, places))
        return torch.where(kinds == -1, self.not_a_point_embed.weight, placed)


class EncodeForBothHeads(Stage):
    """An image (H, W, 3) uint8 of any size to what SAM-CLIP's two heads say of its cells."""

    model: SamClip

    def forward(self, image: Tensor) -> list[Tensor]:
        """To (1, D, h, w) of the CLIP head and (1, C, H, W) of the SAM head."""
        features = self.model.encode_pixels(resized(self.model, image))
        return [F.normalize(features.of("clip").features, dim=1), features.of("sam").features]


class BothHeads(Stage):
    """What both heads say of words."""

    model: SamClip

    def probability(self, dense: Tensor, text: Tensor) -> Tensor:
        """(1, N, h, w) of words that compete."""
        return (correlation_maps(dense, text, self.model.smoothing) * self.model.logit_scale).softmax(dim=1)


class AskByClipHead(BothHeads):
    """Which words the SAM head is asked for."""

    def forward(self, features: list[Tensor], text: Tensor) -> Tensor:
        """(N, D) words to the probability (1, N) of the cell where each is most likely."""
        return self.probability(features[0], text).amax(dim=(2, 3))


class DrawBySamHead(BothHeads):
    """The SAM head's masks."""

    def __init__(self, model: SamClip, cells: int) -> None:
        super().__init__(model)
        self.register_buffer("uniform", uniform_numbers(cells), persistent=False)

    def forward(self, features: list[Tensor], text: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) words, and K of them (K,), to mask logits (K, H, W) and a quality (K,) that nothing depends on."""
        scores = self.probability(features[0], text)[0][asked]
        masks = self.model.draw(features[1], scores, self.uniform)
        return masks, masks.new_ones(masks.shape[0])


class SegmentByBothHeads(BothHeads):
    """SAM-CLIP's label map from both heads."""

    def forward(self, features: list[Tensor], text: Tensor, asked: Tensor, masks: Tensor, quality: Tensor) -> Tensor:
        """(N, D) words and the masks of K of them to logits (1, N, H, W)."""
        scores = MaskScores(
            self.model.finer(self.probability(features[0], text), features[1])[0], self.model.mask_share
        )
        scores.add(asked, masks)
        return scores.logits()[None]


class GuidedStage(Stage):
    """A part of CLIP-Guided SAM."""

    model: ClipGuidedSam

    @property
    def has_pooled(self) -> bool:
        """Whether the feature of the whole image is asked for."""
        return "clip" in self.model.prompting.presence

    def tensors(self, features: GuidedFeatures) -> list[Tensor]:
        """Features of one image as tensors."""
        state, found = features.state, [features.clip.dense]
        if self.model.norm == "cells":
            found.append(features.vision)
        if self.has_pooled:
            found.append(features.clip.pooled)
        return [*found, state.tokens, *([] if state.hidden is None else [state.hidden]), *self._there(state.seen)]

    def features(self, tensors: list[Tensor]) -> GuidedFeatures:
        """And back."""
        left = list(tensors)
        dense = left.pop(0)
        vision = left.pop(0) if self.model.norm == "cells" else dense
        pooled = left.pop(0) if self.has_pooled else None
        encoder = self.model.encoder
        tokens, hidden = left.pop(0), left.pop(0) if encoder.semantic_blocks else None
        seen = [None if adapter.vision is None else left.pop(0) for adapter in encoder.semantic.values()]
        return GuidedFeatures(SharedState(tokens, hidden, seen), ClipFeatures(dense, [], pooled), vision)

    def correlation(self, dense: Tensor, text: Tensor) -> Tensor:
        """(1, N, h, w) of words."""
        return correlation_maps(dense, text, self.model.smoothing)

    @staticmethod
    def _there(seen: list[Tensor | None]) -> list[Tensor]:
        return [tensor for tensor in seen if tensor is not None]


class EncodeForGuidedSam(GuidedStage):
    """An image (H, W, 3) uint8 of any size to what is the same for all words."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """CLIP's dense features (1, D, h, w), what else is known of CLIP's, and SAM's tokens."""
        return self.tensors(self.model.encode_pixels(resized(self.model, image)))


class RankForGuidedSam(GuidedStage):
    """What CLIP's maps say of words."""

    def forward(self, features: list[Tensor], text: Tensor) -> Tensor:
        """(N, D) words to the share (1, N) by which they are ranked."""
        return regional_shares(self.model.map_logits(self.correlation(features[0], text)))


class DrawByGuidedSam(GuidedStage):
    """The masks of words, each with a pass of SAM's encoder of its own."""

    def __init__(self, model: ClipGuidedSam) -> None:
        super().__init__(model)
        self.register_buffer("numbers", model.prompting.random_numbers(0, False), persistent=False)

    def forward(
        self, features: list[Tensor], text: Tensor, asked: Tensor, empty: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(N, D) words, K of them (K,), and the feature (D,) of no word, to mask logits (K, H, W) and quality (K,)."""
        heard = text[asked] if empty is None else self.model.heard(text[asked], empty)
        prediction = self.model.draw(self.features(features), heard, self.numbers).prediction
        return prediction.logits[:, 0], prediction.quality[:, 0]


class SegmentByGuidedSam(GuidedStage):
    """The label map of words whose masks compete."""

    def forward(self, features: list[Tensor], text: Tensor, asked: Tensor, masks: Tensor, quality: Tensor) -> Tensor:
        """(N, D) words and their masks to logits (1, N, H, W)."""
        clip = self.features(features).clip
        scores, whole = self.model.competition(clip, self.correlation(clip.dense, text), text)
        scores.add(asked, masks, self.model.presence(scores, whole, asked, masks, quality))
        return scores.logits()[None]

"""DenseClip: CLIP's own correlation map as the segmentation, the training-free baseline under every table."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from escnet.layers.clip_image_encoder import ClipFeatures, ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.correlation import correlation_maps
from escnet.layers.pixels import PixelNormalisation
from escnet.meta_arch.clip import clip_image_encoder
from escnet.meta_arch.interfaces import InferenceOptions, SegmentingModel
from escnet.meta_arch.segmentation import Segmentation
from escnet.pretrained.clip import build_clip
from escnet.vocabulary import Vocabulary

CLIP_KEYS = tuple(
    f"MODEL.CLIP.{key}" for key in ("NAME", "IMAGE_SIZE", "DENSE", "DENSE_RESIDUAL", "DENSE_BLOCKS", "SMOOTHING")
)
CLIP_PARTS = {"CLIP image encoder": r"clip_image", "CLIP text encoder": r"clip_text"}


@META_ARCH_REGISTRY.register()
class DenseClip(SegmentingModel):
    """Cosine similarity of CLIP's dense features with the text features, and nothing after it (MaskCLIP, sec. 3.2).

    It is what ESC-Net starts from. Nothing is trained, and every class is kept, whatever MODEL.ESC.MAX_CLASSES says.

    Args:
        clip_image: CLIP's image encoder.
        clip_text: CLIP's text encoder.
        logit_scale: CLIP's temperature.
        inference: how images are run.
        smoothing: side of the squares of cells over which its maps are averaged.
    """

    prediction_keys = CLIP_KEYS
    cost_parts: ClassVar = CLIP_PARTS
    text_encoder = "clip_text"
    is_training_free = True

    @configurable
    def __init__(
        self,
        *,
        clip_image: ClipImageEncoder,
        clip_text: ClipTextEncoder,
        logit_scale: float,
        inference: InferenceOptions,
        smoothing: int = 1,
    ) -> None:
        super().__init__(inference)
        self.clip_image = clip_image
        self.clip_text = clip_text
        self.register_buffer("logit_scale", torch.tensor(float(logit_scale)))
        self.normalise = PixelNormalisation()
        self.smoothing = smoothing
        self.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Constructor arguments from a config; reads the public weights unless MODEL.WEIGHTS brings all of them."""
        clip, tokenizer = build_clip(cfg.MODEL.CLIP.NAME, "" if cfg.MODEL.WEIGHTS else cfg.MODEL.CLIP.WEIGHTS)
        encoder = clip_image_encoder(clip.visual, cfg)
        return {
            "clip_image": encoder,
            "clip_text": ClipTextEncoder(clip, tokenizer),
            "logit_scale": clip.logit_scale.exp().item(),
            "inference": InferenceOptions.from_config(cfg, "MODEL.CLIP.IMAGE_SIZE", encoder.patch_size),
            "smoothing": cfg.MODEL.CLIP.SMOOTHING,
        }

    def encode_pixels(self, pixels: Tensor) -> ClipFeatures:
        """CLIP's features of images of its size."""
        return self.clip_image(self.normalise(pixels), pooled=False)

    def segment_features(self, features: ClipFeatures, vocabulary: Vocabulary) -> Segmentation:
        """Logits (B, N, h, w), as coarse as CLIP's grid."""
        correlation = correlation_maps(features.dense, self.clip_text.encode(vocabulary), self.smoothing)
        return Segmentation(correlation * self.logit_scale, None, [correlation])

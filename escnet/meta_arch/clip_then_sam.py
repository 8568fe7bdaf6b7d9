"""ClipThenSam: the two-stage pipeline without training, CLIP's map → prompts → the complete SAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from escnet.layers.clip_image_encoder import ClipFeatures, ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.pseudo_prompts import PseudoPromptGenerator, PseudoPrompts
from escnet.layers.striped_attention import use_striped_attention
from escnet.meta_arch.dense_clip import CLIP_KEYS, CLIP_PARTS, DenseClip
from escnet.meta_arch.interfaces import InferenceOptions, Prompts
from escnet.meta_arch.mask_scores import MaskScores
from escnet.meta_arch.sam import predict_masks, sam_features
from escnet.meta_arch.segmentation import Segmentation
from escnet.pretrained.sam import build_sam
from escnet.vocabulary import Vocabulary


@dataclass(frozen=True)
class ImageFeatures:
    """CLIP's features of B images, and SAM's (1, C, h', w') of each."""

    clip: ClipFeatures
    sam: list[Tensor]


@META_ARCH_REGISTRY.register()
class ClipThenSam(DenseClip):
    """CLIP says what and roughly where, SAM's image encoder and mask decoder draw the outline.

    Each class that is the best of some cell of CLIP's correlation map gives K objects (`PseudoPromptGenerator`), each
    object a point and a mask prompt, and SAM answers each with the logits m of one mask. `MaskScores` says how masks
    become a label map; p is CLIP's probability, the softmax of the scaled correlation, resized. All of it is computed
    four times finer than CLIP's grid. SAM sees the image that it is given, not CLIP's small copy, resized to SAM's
    square as CLIP's is to its own size, so that the two grids cover the same ground.

    There are no sliding windows: prompts, and the masks that answer them, are of whole objects.

    Args:
        clip_image, clip_text, logit_scale, inference, smoothing: as for `DenseClip`.
        sam: segment_anything's complete model.
        generator: reads pseudo prompts off the correlation map.
        mask_logit: a mask prompt is +mask_logit inside and -mask_logit outside.
        mask_share: of SAM's masks in a score, the rest is CLIP's own map.
        prompt_chunk: prompts in the mask decoder at a time; changes speed and memory, never the result.

    Raises:
        ValueError: when sliding windows are asked for.
    """

    prediction_keys = (
        *CLIP_KEYS,
        "MODEL.SAM.NAME",
        "MODEL.MASK_SHARE",
        *(f"MODEL.ESC.{key}" for key in ("NUM_PROMPTS", "ALPHA", "SOFTMAX_AXIS", "KMEANS", "MASK_LOGIT")),
    )
    cost_parts: ClassVar = CLIP_PARTS | {
        "SAM image encoder": r"sam\.image_encoder",
        "SAM prompt encoder": r"sam\.prompt_encoder",
        "SAM mask decoder": r"sam\.mask_decoder",
    }
    untraceable = ("generator",)
    has_sliding_windows = False

    @configurable
    def __init__(
        self,
        *,
        clip_image: ClipImageEncoder,
        clip_text: ClipTextEncoder,
        logit_scale: float,
        inference: InferenceOptions,
        sam: Sam,
        generator: PseudoPromptGenerator,
        mask_logit: float = 8.0,
        mask_share: float = 0.8,
        smoothing: int = 1,
        prompt_chunk: int = 16,
    ) -> None:
        if inference.sliding is not None:
            raise ValueError("ClipThenSam has no sliding windows; set TEST.SLIDING.ENABLED to False")
        if prompt_chunk < 1:
            raise ValueError(f"prompt_chunk must be at least 1, got {prompt_chunk}")
        super().__init__(
            clip_image=clip_image,
            clip_text=clip_text,
            logit_scale=logit_scale,
            inference=inference,
            smoothing=smoothing,
        )
        self.sam = sam.requires_grad_(False)
        use_striped_attention(sam.image_encoder)
        self.generator = generator
        self.mask_logit, self.mask_share = mask_logit, mask_share
        self.prompt_chunk = prompt_chunk

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Constructor arguments from a config; reads the public weights unless MODEL.WEIGHTS brings all of them.

        Raises:
            ValueError: for a MODEL.SAM.INIT other than pretrained or random.
        """
        sam, esc = cfg.MODEL.SAM, cfg.MODEL.ESC
        if sam.INIT not in ("pretrained", "random"):
            raise ValueError(f"MODEL.SAM.INIT is {sam.INIT!r}, but ClipThenSam needs SAM: set it to pretrained")
        sam_weights = sam.WEIGHTS if sam.INIT == "pretrained" and not cfg.MODEL.WEIGHTS else ""
        return {
            **super().from_config(cfg),
            "sam": build_sam(sam.NAME, sam_weights),
            "generator": PseudoPromptGenerator(esc.NUM_PROMPTS, esc.ALPHA, esc.SOFTMAX_AXIS, esc.KMEANS),
            "mask_logit": esc.MASK_LOGIT,
            "mask_share": cfg.MODEL.MASK_SHARE,
        }

    def encode(self, images: Tensor | Sequence[Tensor]) -> ImageFeatures:
        """CLIP's features of the images at CLIP's size, and SAM's of the images as they are; see `SegmentingModel`."""
        with self.autocast():
            clip = self.encode_pixels(self.to_size(images, self.inference.image_size))
            # One after another: SAM sees many pixels, and fills a device with one image.
            pixels = self.to_pixels(images) if isinstance(images, Tensor) else images
            return ImageFeatures(clip, [sam_features(self.sam, self.to_pixels(image)) for image in pixels])

    def segment_features(self, features: ImageFeatures, vocabulary: Vocabulary) -> Segmentation:
        """Logits (B, N, 4h, 4w)."""
        clip = super().segment_features(features.clip, vocabulary)
        (correlation,) = clip.correlations
        prompts = self.generator(correlation, self.logit_scale)
        fine = [4 * side for side in correlation.shape[-2:]]
        probability = F.interpolate(clip.logits.softmax(dim=1), fine, mode="bilinear", align_corners=False)
        logits = torch.empty_like(probability)
        for b, image in enumerate(features.sam):
            winners = correlation[b].argmax(dim=0).unique()
            row, k = (prompts.labels[b, winners] > 0).nonzero(as_tuple=True)
            logits[b] = self._with_masks(image, probability[b], prompts, b, winners[row], k)
        return Segmentation(logits, None, [correlation], [prompts])

    def _with_masks(
        self, features: Tensor, probability: Tensor, prompts: PseudoPrompts, image: int, row: Tensor, k: Tensor
    ) -> Tensor:
        """Logits (N, 4h, 4w) of one image from SAM's features, CLIP's probability and objects (`row`, `k`), (P,)."""
        scores = MaskScores(probability, self.mask_share)
        for chunk in torch.arange(len(row), device=row.device).split(self.prompt_chunk):
            n = row[chunk]
            points = prompts.points[image, n, k[chunk]]
            objects = prompts.assignment[image, n] == k[chunk, None, None]
            masks = self._draw_masks(features, points, objects)
            masks = F.interpolate(masks[:, None], probability.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            scores.add(n, masks)
        return scores.logits()

    def _draw_masks(self, features: Tensor, points: Tensor, objects: Tensor) -> Tensor:
        """One mask for each prompt.

        Args:
            features: (1, C, h', w') of SAM.
            points: (P, 2) as (x, y), in cells of CLIP's grid.
            objects: (P, h, w) bool, the mask prompts.

        Returns:
            (P, 4h', 4w') mask logits.
        """
        encoder = self.sam.prompt_encoder
        height, width = encoder.input_image_size
        cells = points.new_tensor([objects.shape[2], objects.shape[1]])
        # From the middle of a cell to a pixel's index, to whose middle SAM adds the half again.
        positions = (points + 0.5) / cells * points.new_tensor([width, height]) - 0.5
        signs = 2.0 * objects[:, None].float() - 1.0
        masks = self.mask_logit * F.interpolate(signs, encoder.mask_input_size, mode="nearest-exact")
        labels = positions.new_ones(len(positions), 1)
        return predict_masks(self.sam, features, Prompts(positions[:, None], labels, masks=masks), False).logits[:, 0]

"""SAM itself, behind the promptable interface (Kirillov et al., "Segment Anything")."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from torch import Tensor

from escnet.layers.merged_backbone import MergedBackbone
from escnet.layers.sam_prompt_encoder import full_precision
from escnet.layers.striped_attention import use_striped_attention
from escnet.meta_arch.interfaces import MaskPrediction, PromptableModel, Prompts, resize
from escnet.meta_arch.representation import RepresentingModel
from escnet.vocabulary import Vocabulary


class DrawsMasks(Protocol):
    """What answers prompts as SAM does."""

    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder


class PromptableSam(PromptableModel, RepresentingModel):
    """segment_anything's model for prompts of several images at once.

    Its representation is the output of the last block of its image encoder, before the neck.

    Args:
        sam: the model; its parameters are this module's.
    """

    prediction_keys = ("MODEL.SAM.NAME",)

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam
        use_striped_attention(sam.image_encoder)

    @property
    def input_size(self) -> int:
        """Side of SAM's square input in pixels."""
        return self.sam.image_encoder.img_size

    @property
    def mask_size(self) -> tuple[int, int]:
        """(height, width) of the mask logits: a quarter of the input's side at SAM's own sizes."""
        return self.sam.prompt_encoder.mask_input_size

    @property
    def patch_size(self) -> int:
        """Side of a cell in pixels."""
        return self.sam.image_encoder.patch_embed.proj.kernel_size[0]

    def representation(self, images: Tensor, name: str = "backbone") -> Tensor:
        """Hidden state (B, W, h, w) of raw images of any size that the patches divide."""
        self.check_representation(name)
        pixels = (images.to(self.sam.device, torch.float) - self.sam.pixel_mean) / self.sam.pixel_std
        return MergedBackbone(self.sam.image_encoder)(pixels, neck=False).tokens

    def encode(self, images: Tensor) -> Tensor:
        """SAM's features (B, C, h, w) of raw images (3, H, W) or (B, 3, H, W) in 0..255, made square."""
        return sam_features(self.sam, images if images.dim() == 4 else images[None])

    def masks(
        self, features: Tensor, prompts: Prompts, words: Vocabulary | None = None, multimask: bool = False
    ) -> MaskPrediction:
        """Answer prompts with one mask each, or three; see `PromptableModel.masks`."""
        if words is not None:
            raise ValueError("SAM takes no words; leave them out, or take a model that does")
        return predict_masks(self.sam, features, prompts, multimask)


def sam_features(sam: Sam, images: Tensor) -> Tensor:
    """SAM's features (B, C, h', w') of images (B, 3, H, W) in 0..255, made square as SAM expects."""
    side = sam.image_encoder.img_size
    return sam.image_encoder(sam.preprocess(resize(images.to(sam.device, torch.float), (side, side))))


def predict_masks(
    sam: DrawsMasks, features: Tensor, prompts: Prompts, multimask: bool, size: tuple[int, int] | None = None
) -> MaskPrediction:
    """SAM's answer to P prompts of several images at once, in fp32: three masks for an ambiguous prompt, or one.

    Args:
        sam: segment_anything's model, or another that has its prompt encoder and mask decoder.
        features: (P, C, h, w) image features, of each prompt's image; or (1, C, h, w) of one image for all. The grid
            may differ from SAM's own.
        prompts: P of them; of none there are no masks.
        multimask: three masks each, or one.
        size: (height, width) in pixels in which the prompts are given; by default that of SAM's input.
    """
    encoder, grid = sam.prompt_encoder, tuple(features.shape[-2:])
    if not prompts.labels.shape[0]:
        count = sam.mask_decoder.num_multimask_outputs if multimask else 1
        return MaskPrediction(
            features.new_zeros(0, count, *(4 * side for side in grid), dtype=torch.float),
            features.new_zeros(0, count, dtype=torch.float),
        )
    prompts = _at_size(prompts, size, encoder.input_image_size)
    with full_precision(encoder):
        points = (prompts.points, prompts.labels) if prompts.labels.shape[1] else None
        sparse, dense = encoder(points, prompts.boxes, prompts.masks)
        if prompts.masks is None and grid != tuple(encoder.image_embedding_size):
            dense = encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(dense.shape[0], -1, *grid)
        positions = encoder.pe_layer(grid)[None]
        # The decoder takes one image for all prompts and adds the dense prompts to it, so the images come with these.
        dense = dense + features.float()
    masks, quality = sam.mask_decoder(dense.new_zeros(1, *dense.shape[1:]), positions, sparse, dense, multimask)
    return MaskPrediction(masks.float(), quality.float())


def _at_size(prompts: Prompts, size: tuple[int, int] | None, own: tuple[int, int]) -> Prompts:
    """Prompts given in pixels of an image of a (height, width), in those of SAM's own input."""
    if size is None or tuple(size) == tuple(own):
        return prompts
    factor = prompts.points.new_tensor([own[1] / size[1], own[0] / size[0]])
    boxes = prompts.boxes
    if boxes is not None:
        boxes = (boxes + 0.5) * factor.repeat(2) - 0.5
    return replace(prompts, points=(prompts.points + 0.5) * factor - 0.5, boxes=boxes)

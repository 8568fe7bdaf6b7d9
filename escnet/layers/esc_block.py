"""The ESC block: correlation maps → pseudo prompts → SAM block → vision-language fusion (ESC-Net, "ESC block")."""

from __future__ import annotations

from typing import NamedTuple

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from escnet.layers.chunking import class_chunks, run_chunk
from escnet.layers.fusion import VisionLanguageFusion
from escnet.layers.pseudo_prompts import PseudoPromptGenerator, PseudoPrompts
from escnet.layers.sam_block import SamBlock, SharedImage
from escnet.layers.sam_prompt_encoder import PromptEmbedding, SamPromptEncoder

CLASS_MERGES = ("correlation", "mean", "per_class")


class ESCBlockOutput(NamedTuple):
    """
    Attributes:
        correlation: (B, N, h, w) refined correlation maps.
        embedding: (B, N, hw, d) carried to the next block.
        prompts: those read from the incoming maps; None where there is no SAM block.
    """

    correlation: Tensor
    embedding: Tensor
    prompts: PseudoPrompts | None


class ESCBlock(nn.Module):
    """One of the blocks of ESC-Net.

    Args:
        clip_dim: D, channels of CLIP's dense features.
        sam_dim: C, channels of the SAM block.
        sam_block: the pretrained SAM block, or None (the ablation without it: fusion sees the projected features).
        fusion: this block's fusion.
        merge: how the per-class features become one F_v': `correlation` (mean over the classes weighted by the softmax
            of their correlation at each cell), `mean`, or `per_class` (no merge; fusion sees one for each class).

    Raises:
        ValueError: for an unknown merge.
    """

    def __init__(
        self,
        clip_dim: int,
        sam_dim: int,
        sam_block: SamBlock | None,
        fusion: VisionLanguageFusion,
        merge: str = "correlation",
    ) -> None:
        super().__init__()
        if merge not in CLASS_MERGES:
            raise ValueError(f"merge must be one of {CLASS_MERGES}, got {merge!r}")
        # As SAM's own neck does, a norm follows the projection: it sets the scale that the SAM block was trained on.
        self.project = nn.Sequential(nn.Conv2d(clip_dim, sam_dim, kernel_size=1), LayerNorm2d(sam_dim))
        self.sam_block = sam_block
        self.unify = nn.Linear(sam_dim, sam_dim)
        self.fusion = fusion
        self.merge = merge

    def forward(
        self,
        dense: Tensor,
        correlation: Tensor,
        embedding: Tensor | None,
        text: Tensor,
        logit_scale: Tensor | float,
        generator: PseudoPromptGenerator,
        prompt_encoder: SamPromptEncoder | None,
        prompting: Tensor | None = None,
        chunk: int = 0,
        recompute: bool = False,
    ) -> ESCBlockOutput:
        """
        Args:
            dense: (B, D, h, w) CLIP's dense features F_v.
            correlation: (B, N, h, w) cosine similarities.
            embedding: (B, N, hw, d) of the block before, or None.
            text: (B, N, D) text features F_l.
            logit_scale: CLIP's temperature.
            generator: reads the prompts.
            prompt_encoder: SAM's, shared by all blocks; unused without a SAM block.
            prompting: (B, N, h, w) the maps that the prompts are read from; None for `correlation`.
            chunk: classes at a time (0: all).
            recompute: checkpoint the activations of each chunk.
        """
        image = self.project(dense)
        prompts = None
        if self.sam_block is None:
            features = self.unify(image.flatten(2).transpose(1, 2))
        else:
            prompts = generator(correlation if prompting is None else prompting, logit_scale)
            prompted = prompt_encoder(prompts)
            position = prompt_encoder.positional_encoding(tuple(correlation.shape[-2:]))
            shared = self.sam_block.share(image, position, prompted)
            weights = self._class_weights(correlation, logit_scale)
            features = self._segment(shared, prompted, weights, chunk, recompute)
        refined, embedding = self.fusion(
            correlation, embedding, features, text, logit_scale, chunk=chunk, recompute=recompute
        )
        return ESCBlockOutput(refined, embedding, prompts)

    def _class_weights(self, correlation: Tensor, logit_scale: Tensor | float) -> Tensor | None:
        """(B, N, hw) weights of the merge, which sum to one over the classes; None without a merge."""
        if self.merge == "per_class":
            return None
        if self.merge == "mean":
            return torch.full_like(correlation, 1.0 / correlation.shape[1]).flatten(2)
        return (correlation * logit_scale).softmax(dim=1).flatten(2)

    def _segment(
        self, shared: SharedImage, prompted: PromptEmbedding, weights: Tensor | None, chunk: int, recompute: bool
    ) -> Tensor:
        """F_v', (B, hw, C), or (B, N, hw, C) without a merge."""
        parts = [
            run_chunk(
                self._segment_chunk,
                shared,
                prompted.sparse[:, s],
                prompted.mask[:, s],
                None if weights is None else weights[:, s],
                recompute=recompute,
            )
            for s in class_chunks(prompted.mask.shape[1], chunk)
        ]
        if weights is None:
            return torch.cat(parts, dim=1)
        # The 1×1 convolution is linear and the weights sum to one, so it may follow the mean.
        return self.unify(torch.stack(parts).sum(dim=0))

    def _segment_chunk(self, shared: SharedImage, sparse: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
        features = self.sam_block(shared, sparse, mask)
        if weights is None:
            return self.unify(features)
        return (features * weights.unsqueeze(-1)).sum(dim=1)

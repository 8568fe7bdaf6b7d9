"""The ESC block: prompted SAM block → vision-language fusion, for all classes at once (ESC-Net, "ESC block")."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from escnet.layers.chunking import class_chunks, run_chunk
from escnet.layers.fusion import VisionLanguageFusion
from escnet.layers.sam_block import SamBlock, SharedImage
from escnet.layers.sam_prompt_encoder import PromptEmbedding

CLASS_MERGES = ("correlation", "mean", "per_class")


class ClassMaps(NamedTuple):
    """What travels from block to block: the maps of N classes.

    Attributes:
        correlation: (B, N, h, w) cosine similarities.
        embedding: (B, N, hw, d) of the block before; None before the first.
    """

    correlation: Tensor
    embedding: Tensor | None


class ESCBlock(nn.Module):
    """One of the blocks of ESC-Net.

    Args:
        project: of what the image encoder gives to C channels; `nn.Identity` for SAM's own image embedding.
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
        project: nn.Module,
        sam_dim: int,
        sam_block: SamBlock | None,
        fusion: VisionLanguageFusion,
        merge: str = "correlation",
    ) -> None:
        super().__init__()
        if merge not in CLASS_MERGES:
            raise ValueError(f"merge must be one of {CLASS_MERGES}, got {merge!r}")
        self.project = project
        self.sam_block = sam_block
        self.unify = nn.Linear(sam_dim, sam_dim)
        self.fusion = fusion
        self.merge = merge

    def forward(
        self,
        image: Tensor,
        maps: ClassMaps,
        text: Tensor,
        logit_scale: Tensor | float,
        prompted: PromptEmbedding | None = None,
        chunk: int = 0,
        recompute: bool = False,
    ) -> ClassMaps:
        """
        Args:
            image: (B, D', h, w), what `project` takes: CLIP's dense features F_v, or SAM's image embedding.
            maps: those of the block before.
            text: (B, N, D) text features F_l.
            logit_scale: CLIP's temperature.
            prompted: the pseudo prompts of each class, embedded by SAM's prompt encoder; without a SAM block, none.
            chunk: classes at a time (0: all).
            recompute: checkpoint the activations of each chunk.

        Returns:
            The refined maps, with the embedding that is carried to the next block.
        """
        image = self.project(image)
        if self.sam_block is None:
            features = self.unify(image.flatten(2).transpose(1, 2))
        else:
            shared = self.sam_block.share(image, prompted)
            weights = self._class_weights(maps.correlation, logit_scale)
            features = self._segment(shared, prompted, weights, chunk, recompute)
        return ClassMaps(*self.fusion(*maps, features, text, logit_scale, chunk=chunk, recompute=recompute))

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

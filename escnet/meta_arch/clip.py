"""CLIP itself, behind the classifying interface (Radford et al., "Learning Transferable Visual Models ...")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from escnet.layers.clip_image_encoder import ClipFeatures, ClipImageEncoder
from escnet.layers.clip_text_encoder import ClipTextEncoder
from escnet.layers.pixels import PixelNormalisation
from escnet.meta_arch.interfaces import ClassifyingModel, resize
from escnet.meta_arch.representation import RepresentingModel
from escnet.vocabulary import Vocabulary


def clip_image_encoder(visual: nn.Module, cfg: Any) -> ClipImageEncoder:
    """The encoder of a CLIP's image tower, with the dense features that MODEL.CLIP asks for.

    Raises:
        TypeError, ValueError: the tower is of another kind, or has too few blocks for them.
    """
    own = cfg.MODEL.CLIP
    return ClipImageEncoder(visual, own.DENSE, own.DENSE_RESIDUAL, own.DENSE_BLOCKS)


class ClassifyingClip(ClassifyingModel, RepresentingModel):
    """CLIP's two towers.

    Its representation is the output of the last block of its image tower: of the patches, and of a whole image what
    the tower pools, before its projection (Radford et al., sec. 3.2, of the linear probes); text is what is compared
    with words, L2-normalised, and all is both.

    Args:
        clip_image: its image encoder.
        clip_text: its text encoder; None where images alone are asked about.
        logit_scale: its temperature.
        image_size: (height, width) to which images are brought.
    """

    prediction_keys = ("MODEL.CLIP.NAME", "MODEL.CLIP.IMAGE_SIZE")
    representations = ("backbone", "text", "all")

    def __init__(
        self,
        clip_image: ClipImageEncoder,
        clip_text: ClipTextEncoder | None,
        logit_scale: float,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__()
        visual: VisionTransformer = clip_image.visual
        # open_clip's models know the mean and deviation that they were trained with.
        statistics = {"mean": getattr(visual, "image_mean", None), "deviation": getattr(visual, "image_std", None)}
        self.normalise = PixelNormalisation(**{name: tuple(v) for name, v in statistics.items() if v is not None})
        self.clip_image, self.clip_text = clip_image, clip_text
        self.register_buffer("logit_scale", torch.tensor(float(logit_scale)))
        self.image_size = tuple(image_size)

    @property
    def patch_size(self) -> int:
        """Side of a cell in pixels."""
        return self.clip_image.patch_size

    def representation(self, images: Tensor, name: str = "backbone") -> Tensor:
        """Hidden state (B, W, h, w) of raw images of any size that the patches divide; text (B, D, h, w)."""
        return self._joined(
            images, name, self._hidden_cells, lambda pixels: self.clip_image(pixels, pooled=False).dense
        )

    def pooled_representation(self, images: Tensor, name: str = "backbone") -> Tensor:
        """(B, W): the class token or the mean over the patches, as the tower pools, normalised as it does."""
        return self._joined(images, name, self._pooled_state, lambda pixels: self.summary(self.clip_image.pool(pixels)))

    def encode(self, images: Tensor) -> Tensor:
        """CLIP's pooled features (B, D) of raw images (3, H, W) or (B, 3, H, W)."""
        return self.clip_image.pool(self._prepared(images))

    def encode_all(self, images: Tensor) -> ClipFeatures:
        """CLIP's pooled and dense features of raw images, as `encode` takes them."""
        return self.clip_image(self._prepared(images))

    def summary(self, features: Tensor) -> Tensor:
        """(B, D) L2-normalised."""
        return F.normalize(features, dim=-1)

    def text_features(self, vocabulary: Vocabulary) -> Tensor:
        """(rows, D) L2-normalised features of the rows of a vocabulary."""
        return self.clip_text.encode(vocabulary)

    def sentence_features(self, sentences: Sequence[str]) -> Tensor:
        """(n, D) L2-normalised features of whole sentences; the end of a long one is cut off."""
        return self.clip_text.encode_sentences(sentences)

    def _joined(self, images: Tensor, name: str, *parts: Callable[[Tensor], Tensor]) -> Tensor:
        """What makes the backbone's part of a representation, and what the text's, asked for by name."""
        self.check_representation(name)
        pixels = self.normalise(images.to(self.logit_scale.device, torch.float))
        asked = parts if name == "all" else [parts[self.representations.index(name)]]
        return torch.cat([part(pixels) for part in asked], dim=1)

    def _hidden_cells(self, pixels: Tensor) -> Tensor:
        cells = self.clip_image.hidden_tokens(pixels)[:, 1:]
        return cells.unflatten(1, (pixels.shape[-2] // self.patch_size, -1)).permute(0, 3, 1, 2)

    def _pooled_state(self, pixels: Tensor) -> Tensor:
        tokens, visual = self.clip_image.hidden_tokens(pixels), self.clip_image.visual
        if visual.pool_type == "tok":
            return visual.ln_post(tokens[:, 0])
        cells = tokens[:, 1:]
        return visual.ln_post(cells.mean(dim=1)) if visual.final_ln_after_pool else visual.ln_post(cells).mean(dim=1)

    def _prepared(self, images: Tensor) -> Tensor:
        pixels = (images if images.dim() == 4 else images[None]).to(self.logit_scale.device, torch.float)
        return self.normalise(resize(pixels, self.image_size))

"""Adapters inside SAM's image encoder, and the way in which CLIP's signals enter them (CLIP-Guided SAM, sec. 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIGNALS = ("text", "vision", "similarity")


class WordSignals(NamedTuple):
    """What CLIP says of P words, each in one of B images.

    Attributes:
        text: (P,D) L2-normalised.
        similarity: (P,h,w) of its image, brought to the grid of SAM's tokens.
        images: (P,) which image.
    """

    text: Tensor
    similarity: Tensor
    images: Tensor


class Adapter(nn.Module):
    """Two linear layers with a bottleneck and GELU between them.

    Arguments:
      width: channels of input and output.
      bottleneck: channels between them.
      zero_start: begin with an output of zero.
    """

    def __init__(self, width: int, bottleneck: int, zero_start: bool) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        if zero_start:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(...,W) -> (...,W)"""
        return self.finish(self.down(tokens))

    def finish(self, hidden: Tensor) -> Tensor:
        """From the bottleneck (...,r) on: (...,W)."""
        return self.up(F.gelu(hidden))


class SemanticAdapter(Adapter):
    """An adapter whose input is a block's normalised tokens n plus projected text, vision and similarity.

        A(n) = W4 · GELU(W3 · (n + T + U)),   T = GELU(Wt · t),   U = up(Wv · (V + s))

    V are CLIP's dense features, s their similarity with the word's text feature t, one number for each cell that is
    added to all channels; up is bilinear, to the grid of n. W3 is linear, so that it is applied to each part by itself:
    V is the same for all words of an image and is projected once, down to the bottleneck; a word adds the vector
    W3 · T and its similarity times the one vector W3 · Wv · 1. That is exact, and all that a word costs before GELU.

    Arguments:
      width: channels of n.
      bottleneck: channels of the hidden layer.
      signal_dim: D, channels of CLIP's features.
      zero_start: as of `Adapter`.
      signals: which of `SIGNALS` enter.
    """

    def __init__(
        self, width: int, bottleneck: int, signal_dim: int, zero_start: bool, signals: tuple[str, ...] = SIGNALS
    ) -> None:
        super().__init__(width, bottleneck, zero_start)
        self.signals = signals
        self.text = nn.Linear(signal_dim, width) if "text" in signals else None
        self.vision = nn.Linear(signal_dim, width) if {"vision", "similarity"} & set(signals) else None

    def forward(self, tokens: Tensor, seen: Tensor | None = None, words: WordSignals | None = None) -> Tensor:
        """Adapt tokens (P,h,w,W) n; arguments as of `heard`."""
        return self.finish(self.heard(self.down(tokens), seen, words))

    def seen(self, vision: Tensor, grid: tuple[int, int]) -> Tensor | None:
        """What the dense features (B,D,h',w') of images add to the bottleneck, (B,h,w,r); None where they do not."""
        if self.vision is None:
            return None
        constant = F.linear(self.vision.bias, self.down.weight)
        if "vision" not in self.signals:
            return constant.expand(len(vision), *grid, -1)
        seen = torch.einsum("rd,bdhw->brhw", self.down.weight @ self.vision.weight, vision)
        return F.interpolate(seen, grid, mode="bilinear", align_corners=False).permute(0, 2, 3, 1) + constant

    def heard(self, hidden: Tensor, seen: Tensor | None, words: WordSignals | None) -> Tensor:
        """The bottleneck (P,h,w,r) with all signals.

        Arguments:
          hidden: (P,h,w,r) W3 · n, or (1,h,w,r) for all.
          seen: (P,h,w,r) from `seen`, of each word's image, or (1,h,w,r) for all; None adds nothing.
          words: P of them; None leaves out what depends on words.
        """
        if seen is not None:
            hidden = hidden + seen
        if words is not None and "similarity" in self.signals:
            direction = self.down.weight @ self.vision.weight.sum(dim=1)
            hidden = hidden + words.similarity.unsqueeze(-1) * direction
        if words is not None and self.text is not None:
            hidden = hidden + F.linear(F.gelu(self.text(words.text)), self.down.weight)[:, None, None]
        return hidden

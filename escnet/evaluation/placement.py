"""How an image lies in the square input of a promptable model: boxes into the square, masks back out of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from open_clip.constants import IMAGENET_MEAN
from torch import Tensor
from torch.nn import functional as F

from escnet.meta_arch.interfaces import resize


@dataclass(frozen=True)
class Placement:
    """An image in a square.

    Attributes:
        image: its (height, width) in pixels.
        inner: (height, width) of what it becomes in the square, whose upper left corner it shares.
        side: of the square in pixels.
    """

    image: tuple[int, int]
    inner: tuple[int, int]
    side: int

    @classmethod
    def stretched(cls, image: tuple[int, int], side: int) -> Placement:
        """Each axis scaled by itself, so that the image fills the square."""
        return cls(image, (side, side), side)

    @classmethod
    def padded(cls, image: tuple[int, int], side: int) -> Placement:
        """The longer side brought to the square's, the rest filled up, as SAM does it (Segment Anything, sec. A)."""
        scale = side / max(image)
        height, width = (max(1, int(length * scale + 0.5)) for length in image)
        return cls(image, (height, width), side)

    def place(self, pixels: Tensor) -> Tensor:
        """The square (1, 3, side, side) float of an image (3, H, W) in 0..255.

        It is filled up with the mean of ImageNet, which becomes 0 in models that subtract it, as SAM's own filling.
        """
        inner = resize(pixels[None].float(), self.inner)
        if self.inner == (self.side, self.side):
            return inner
        square = 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1).expand(1, 3, self.side, self.side)
        square = square.to(inner).clone()
        square[..., : self.inner[0], : self.inner[1]] = inner
        return square

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes (P, 4), edges in pixels of the image whose left edge is at 0, as those of `Prompts`."""
        height, width = self.image
        scale = boxes.new_tensor([self.inner[1] / width, self.inner[0] / height])
        # In prompts, the outer edge of the first pixel is at -0.5.
        return boxes * scale.repeat(2) - 0.5

    def masks(self, logits: Tensor) -> Tensor:
        """Bool masks (P, H, W) of the image from logits (P, h, w) that cover the square."""
        logits = logits[:, None]
        if self.inner != (self.side, self.side):
            # Only on the square itself does the filling begin at a whole pixel.
            logits = F.interpolate(logits, (self.side, self.side), mode="bilinear", align_corners=False)
            logits = logits[..., : self.inner[0], : self.inner[1]]
        return F.interpolate(logits, self.image, mode="bilinear", align_corners=False)[:, 0] > 0

"""A stored image as a square of the wanted size, whole or a random crop of it."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from escnet.data.images import ImageError, read_reduced
from escnet.data.shards.accounting import UnusableSampleError

# A JPEG is decoded at a reduced size that is at least so many times the wanted one.
_RESERVE = 2
_TRIES = 10
_NAME_OF_BYTES = re.compile(r"^a picture of \d+ bytes: ")


class Augmentation(NamedTuple):
    """How a random crop is drawn; CLIP's training by default (open_clip).

    Attributes:
        scale: the smallest and the largest share of the image's area.
        ratio: the smallest and the largest width over height.
        flip: the probability of a mirrored crop.
    """

    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5


class Crop(NamedTuple):
    """A rectangle of an image in whole pixels, mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    is_flipped: bool


def check_augmentation(augmentation: Augmentation) -> None:
    """Refuse ranges from which nothing can be drawn.

    Raises:
        ValueError: the message names the values.
    """
    (small, large), (low, high) = augmentation.scale, augmentation.ratio
    if not 0 < small <= large <= 1:
        raise ValueError(f"the scale of random crops is a range of shares above 0 up to 1, got {augmentation.scale}")
    if not 0 < low <= high < math.inf:
        raise ValueError(f"the ratio of random crops is a range of positive numbers, got {augmentation.ratio}")
    if not 0 <= augmentation.flip <= 1:
        raise ValueError(f"the probability of a flip is 0 to 1, got {augmentation.flip}")


def decode_image(data: bytes, size: int, least_side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an image that is going to be brought to a square.

    Args:
        data: contents of an image file.
        size: side of the square, in pixels.
        least_side: which neither side of the image may fall below.

    Returns:
        (h,w,3) uint8 RGB, perhaps smaller than stored, and the (height, width) that is stored.

    Raises:
        UnusableSampleError: it cannot be decoded, or is too small.
    """
    try:
        pixels, stored = read_reduced(data, _RESERVE * size)
    except ImageError as error:
        raise UnusableSampleError(_NAME_OF_BYTES.sub("", str(error))) from error
    if min(stored) < least_side:
        raise UnusableSampleError(f"has {stored[1]}x{stored[0]} pixels, where no side may be below {least_side}")
    return pixels, stored


def draw_crop(size: tuple[int, int], augmentation: Augmentation, generator: np.random.RandomState) -> Crop:
    """Draw a rectangle of random area, aspect ratio and place; the largest one in the middle where none is found.

    Args:
        size: (height, width) of the image.
        augmentation: the ranges.
        generator: decides.
    """
    height, width = size
    is_flipped = generator.random_sample() < augmentation.flip
    low, high = augmentation.ratio
    for _ in range(_TRIES):
        area = height * width * generator.uniform(*augmentation.scale)
        ratio = math.exp(generator.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = generator.randint(height - h + 1), generator.randint(width - w + 1)
            return Crop(int(top), int(left), h, w, is_flipped)
    w, h = min(width, max(1, round(height * high))), min(height, max(1, round(width / low)))
    return Crop((height - h) // 2, (width - w) // 2, h, w, is_flipped)


def to_square(pixels: np.ndarray, size: int, crop: Crop | None = None) -> Tensor:
    """Bring an image, or a crop of it, to a square, both axes by themselves; bicubic with antialiasing.

    Args:
        pixels: (h,w,3) uint8 RGB.
        size: side of the square.
        crop: what of the image is taken; None for all.

    Returns:
        (3,size,size) uint8.
    """
    if crop is not None:
        pixels = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    if batch.shape[-2:] != (size, size):
        batch = F.interpolate(batch, (size, size), mode="bicubic", align_corners=False, antialias=True)
    square = batch[0]
    return (square.flip(-1) if crop is not None and crop.is_flipped else square).contiguous()

"""The random augmentations of training images that Detectron2 lacks, or does not keep aligned with the labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from detectron2.data import transforms as T
from PIL import Image

_PADDING_GREY = 128


class ScaleJitter(T.ResizeShortestEdge):
    """Resize so that the short side has a length chosen from `short_sides` and the long one at most `max_size`."""

    def __init__(self, short_sides: tuple[int, ...], max_size: int) -> None:
        super().__init__(short_sides, max_size, sample_style="choice")

    def get_transform(self, image: np.ndarray) -> AlignedResize:
        height, width = image.shape[:2]
        short_side = int(np.random.choice(self.short_edge_length))
        new_height, new_width = self.get_output_shape(height, width, short_side, self.max_size)
        # The limit on the long side rounds the short side of a very thin image to nothing.
        return AlignedResize(height, width, max(new_height, 1), max(new_width, 1))


class AlignedResize(T.ResizeTransform):
    """Detectron2's resize, with label pixels taken at pixel centres, as the image's are.

    Detectron2 resizes labels of more than 8 bits by a rule that moves them against the image by up to half a pixel.
    """

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        resized = Image.fromarray(segmentation.astype(np.int32)).resize((self.new_w, self.new_h), Image.NEAREST)
        return np.asarray(resized)


class ColorJitter(T.Augmentation):
    """Brightness, contrast, saturation and hue, each varied with probability 1/2, in the ranges of the SSD detector.

    Brightness is shifted by up to 32 of 255, contrast and saturation are scaled by 0.5 to 1.5, hue is turned by up
    to 36 degrees; contrast comes before or after saturation and hue.
    """

    def get_transform(self, image: np.ndarray) -> T.PILColorTransform:
        values = np.arange(256)
        brightness = _maybe(lambda: values + np.random.uniform(-32, 32))
        contrast = _maybe(lambda: values * np.random.uniform(0.5, 1.5))
        saturation = _maybe(lambda: values * np.random.uniform(0.5, 1.5))
        hue = _maybe(lambda: (values + np.random.randint(-25, 26)) % 256)  # Pillow's hue has 256 steps per turn
        contrast_first = np.random.randint(2)

        def jitter(picture: Image.Image) -> Image.Image:
            picture = _with_values(picture, brightness)
            if contrast_first:
                picture = _with_values(picture, contrast)
            picture = _with_hue_and_saturation(picture, hue, saturation)
            return picture if contrast_first else _with_values(picture, contrast)

        return T.PILColorTransform(jitter)


class PadTo(T.Augmentation):
    """Pad right and bottom to at least `size` (height, width): the image with grey, the labels with `ignore_label`."""

    def __init__(self, size: tuple[int, int], ignore_label: int) -> None:
        super().__init__()
        self._size = size
        self._ignore_label = ignore_label

    def get_transform(self, image: np.ndarray) -> T.PadTransform:
        height, width = image.shape[:2]
        bottom, right = max(self._size[0] - height, 0), max(self._size[1] - width, 0)
        return T.PadTransform(0, 0, right, bottom, width, height, _PADDING_GREY, self._ignore_label)


def _maybe(draw: Callable[[], np.ndarray]) -> np.ndarray | None:
    """With probability 1/2 the 256 new values of a channel that `draw` returns, else None for no change."""
    return draw() if np.random.randint(2) else None


def _with_values(picture: Image.Image, table: np.ndarray | None) -> Image.Image:
    """`picture` with each 8-bit value of each channel replaced by its rounded entry in `table`."""
    if table is None:
        return picture
    entries = np.rint(np.clip(table, 0, 255)).astype(int).tolist()
    return picture.point(entries * len(picture.getbands()))


def _with_hue_and_saturation(
    picture: Image.Image, hue: np.ndarray | None, saturation: np.ndarray | None
) -> Image.Image:
    if hue is None and saturation is None:
        return picture
    channels = picture.convert("HSV").split()
    channels = (_with_values(channels[0], hue), _with_values(channels[1], saturation), channels[2])
    return Image.merge("HSV", channels).convert("RGB")

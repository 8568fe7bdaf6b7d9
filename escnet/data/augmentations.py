"""The random augmentations of training images that Detectron2 lacks, or does not keep aligned with the labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from detectron2.data import transforms as T
from PIL import Image

_PADDING_GREY = 128


class ScaleJitterCrop(T.Augmentation):
    """Resize by a random scale and cut out a random window; of the image, only what is in the window is resized.

    The pixels are those of resizing the whole image and cropping it then, at less than half the time.

    Args:
        short_sides: the lengths in pixels among which the short side of the resized image is chosen.
        max_size: longest side in pixels; a long image is shrunk to it, whatever its short side becomes.
        crop_size: (height, width) of the window; smaller where the resized image is.
        max_area: windows are drawn again, up to 10 times, while one class covers more than this share of what is not
            ignored.
        ignore_label: of the label map.
    """

    TRIALS = 10

    def __init__(
        self,
        short_sides: tuple[int, ...],
        max_size: int,
        crop_size: tuple[int, int],
        max_area: float = 1.0,
        ignore_label: int = -1,
    ) -> None:
        super().__init__()
        self._short_sides = short_sides
        self._max_size = max_size
        self._crop_size = crop_size
        self._max_area = max_area
        self._ignore_label = ignore_label

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> ResizedCrop:
        height, width = image.shape[:2]
        short_side = int(np.random.choice(self._short_sides))
        resized = T.ResizeShortestEdge.get_output_shape(height, width, short_side, self._max_size)
        # The limit on the long side rounds the short side of a very thin image to nothing.
        resized = (max(resized[0], 1), max(resized[1], 1))
        crop = self._draw((height, width), resized)
        if self._max_area < 1:
            for _ in range(self.TRIALS - 1):
                if self._is_mixed(crop.apply_segmentation(sem_seg)):
                    break
                crop = self._draw((height, width), resized)
        return crop

    def _draw(self, size: tuple[int, int], resized: tuple[int, int]) -> ResizedCrop:
        window = (min(self._crop_size[0], resized[0]), min(self._crop_size[1], resized[1]))
        top = np.random.randint(resized[0] - window[0] + 1)
        left = np.random.randint(resized[1] - window[1] + 1)
        return ResizedCrop(size, resized, (top, left), window)

    def _is_mixed(self, labels: np.ndarray) -> bool:
        classes, counts = np.unique(labels, return_counts=True)
        counts = counts[classes != self._ignore_label]
        return len(counts) > 1 and counts.max() < counts.sum() * self._max_area


class ResizedCrop(T.Transform):
    """A window of a resized image, computed without the rest of it.

    Args:
        size: (height, width) of the image.
        resized: to which it is resized.
        corner: (top, left) of the window in the resized image.
        window: (height, width) of the window.
    """

    def __init__(
        self, size: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int], window: tuple[int, int]
    ) -> None:
        super().__init__()
        self._scale = np.array([size[0] / resized[0], size[1] / resized[1]])
        self._corner = np.array(corner)
        self._window = window
        self._rows, self._columns = (
            # The source pixel below the centre of a pixel, as of the image; exact in integers.
            (2 * np.arange(corner[axis], corner[axis] + window[axis]) + 1) * size[axis] // (2 * resized[axis])
            for axis in (0, 1)
        )

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Bilinear with antialiasing, of an (H, W, 3) uint8 image."""
        top, left = self._corner * self._scale
        bottom, right = (self._corner + self._window) * self._scale
        # The box may exceed the image by a rounding error.
        box = (left, top, min(right, image.shape[1]), min(bottom, image.shape[0]))
        return np.asarray(Image.fromarray(image).resize(self._window[::-1], Image.Resampling.BILINEAR, box=box))

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """The label at each pixel's centre."""
        return segmentation[self._rows[:, None], self._columns]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Points (x, y) in pixels, where pixel i reaches from i to i + 1."""
        return coords / self._scale[::-1] - self._corner[::-1]


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

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        bottom, right = max(self._size[0] - height, 0), max(self._size[1] - width, 0)
        if not bottom and not right:
            return T.NoOpTransform()
        return T.PadTransform(0, 0, right, bottom, width, height, _PADDING_GREY, self._ignore_label)


def _maybe(draw: Callable[[], np.ndarray]) -> np.ndarray | None:
    """With probability 1/2 the 256 new values of a channel that `draw` returns, else None for no change."""
    return draw() if np.random.randint(2) else None


def _with_values(picture: Image.Image, table: np.ndarray | None) -> Image.Image:
    """`picture` with each 8-bit value of each channel replaced by its rounded entry in `table`."""
    if table is None:
        return picture
    return picture.point(_entries(*[table] * len(picture.getbands())))


def _with_hue_and_saturation(
    picture: Image.Image, hue: np.ndarray | None, saturation: np.ndarray | None
) -> Image.Image:
    if hue is None and saturation is None:
        return picture
    same = np.arange(256)
    tables = (same if hue is None else hue, same if saturation is None else saturation, same)
    return picture.convert("HSV").point(_entries(*tables)).convert("RGB")


def _entries(*tables: np.ndarray) -> list[int]:
    """One table of 256 values for each band, rounded and clipped, as Pillow takes them."""
    return np.rint(np.clip(np.concatenate(tables), 0, 255)).astype(int).tolist()

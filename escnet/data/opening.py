"""Opening an image file up to a number of pixels, beyond which a small file may be made to fill the memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import BinaryIO

from PIL import Image

# Pillow's own limit.
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
# Held while it, which is of the whole process, is lifted.
_limit_lifted = threading.Lock()


def open_image(file: BinaryIO | Path, max_pixels: int | None) -> Image.Image:
    """Open an image without decoding it, unless it has more pixels than allowed.

    Args:
        file: to be read from.
        max_pixels: the most that it may have; None for no limit, whatever Pillow's is.

    Raises:
        DecompressionBombError: it has more.
    """
    if max_pixels is None or max_pixels > MAX_PIXELS:
        with _limit_lifted:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(file)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    else:
        image = Image.open(file)
    check_pixels(image, max_pixels)
    return image


def check_pixels(image: Image.Image, max_pixels: int | None) -> None:
    """Close an image that has more pixels than allowed, and refuse it."""
    pixels = image.width * image.height
    if max_pixels is not None and pixels > max_pixels:
        image.close()
        raise Image.DecompressionBombError(f"{pixels} pixels, where {max_pixels} are allowed")

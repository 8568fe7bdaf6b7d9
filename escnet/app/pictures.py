"""An uploaded picture as pixels: upright, small enough, and known again by its contents."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from escnet.app.limits import Limits
from escnet.data.images import ImageError, read_reduced


@dataclass(frozen=True)
class UploadedPicture:
    """What a user has given to the page.

    Attributes:
        name: of the file, as the user calls it.
        digest: SHA-256 of the file.
        pixels: (H, W, 3) uint8 RGB.
        note: what has been done to it that a user should know; "" for nothing.
    """

    name: str
    digest: str
    pixels: np.ndarray = field(repr=False)
    note: str = ""


def read_uploaded(path: Path, name: str, limits: Limits) -> UploadedPicture:
    """Read the file that the server has stored of an upload.

    Args:
        path: where it is.
        name: what messages call it: its user does not know the path.
        limits: it is shrunk to their `pixels`.

    Raises:
        ImageError: as `read_image`, of a file that is no picture.
    """
    contents = path.read_bytes()
    if not contents:
        raise ImageError(f"{name}: the file is empty (0 bytes); copy or download it again")
    file = io.BytesIO(contents)
    file.name = name
    pixels, (height, width) = read_reduced(file, math.ceil(math.sqrt(limits.pixels)))
    digest = hashlib.sha256(contents).hexdigest()
    if height * width <= limits.pixels:
        return UploadedPicture(name, digest, pixels)
    size = _shrunk(height, width, limits.pixels)
    pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    note = f"{name} has {width} x {height} pixels and was shrunk to {size[0]} x {size[1]} (--max-pixels)"
    return UploadedPicture(name, digest, pixels, note)


def _shrunk(height: int, width: int, pixels: int) -> tuple[int, int]:
    """(width, height) of the same shape with at most so many pixels."""
    factor = math.sqrt(pixels / (height * width))
    return max(1, min(pixels, int(width * factor))), max(1, min(pixels, int(height * factor)))

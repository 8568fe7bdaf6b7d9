"""Turning pictures in memory, of whatever type and depth, into 8-bit RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps

from escnet.data.value_range import ValueRange, declared_range, to_uint8

if TYPE_CHECKING:
    import torch

# Pillow's modes of one channel with more than 8 bits.
WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
ACCEPTED = (
    "accepted are a PIL image, the bytes of an image file or the file opened in binary mode, an array of shape (H,W), "
    "(H,W,1), (H,W,3) RGB or (H,W,4) RGBA with H, W >= 1 and values uint8, uint16 or floating point (0..1, other "
    "ranges with a warning, any with value_range), or a tensor of such values, (3,H,W) or (H,W,3)"
)


def pil_to_rgb(image: Image.Image, name: str, value_range: ValueRange | None = None) -> np.ndarray:
    """The (H,W,3) uint8 pixels of a PIL image, upright and on white.

    Args:
        name: of the picture, for messages.
        value_range: as for `to_uint8`.

    Raises:
        ValueRangeError: values whose black and white cannot be told.
    """
    # Both are known only until the pixels are loaded, or turned.
    declared, is_cut = declared_range(image), _is_cut_to_8_bits(image)
    image.load()
    image = ImageOps.exif_transpose(image) if _is_turned(image) else image
    if image.mode in WIDE_MODES:
        grey = to_uint8(np.asarray(image), name, value_range, declared)
        return np.repeat(grey[..., None], 3, axis=2)
    if is_cut:
        pixels = np.asarray(image)
        # Of 14 bits or fewer, and so too dark in what Pillow left of them.
        if value_range is not None or pixels[..., :3].max() < 64:
            return array_to_rgb(pixels.astype(np.uint16) * 257, name, value_range, declared)
    pixels = np.array(_on_white(image).convert("RGB"))
    return pixels if value_range is None else to_uint8(pixels, name, value_range)


def array_to_rgb(
    array: np.ndarray, name: str, value_range: ValueRange | None = None, declared: ValueRange | None = None
) -> np.ndarray:
    """The (H,W,3) uint8 pixels of an array (H,W), (H,W,1), (H,W,3) or (H,W,4), which share no memory with it.

    Args:
        name: of the picture, for messages.
        value_range, declared: as for `to_uint8`, of the colours; transparency is scaled by itself.

    Raises:
        ValueError: another shape or type, or values whose black and white cannot be told.
    """
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.size == 0:
        raise ValueError(f"{name} cannot have the shape {array.shape}; {ACCEPTED}")
    kind, is_told = array.dtype.kind, value_range is not None
    if kind != "f" and array.dtype not in (np.uint8, np.uint16) and not (is_told and kind in "biu"):
        raise ValueError(f"{name} cannot be of {array.dtype}; {ACCEPTED}")
    colors = to_uint8(pixels[..., :3], name, value_range, declared)
    if pixels.shape[2] == 4:
        alpha = to_uint8(pixels[..., 3:], f"{name}, transparency")
        return np.array(_on_white(Image.fromarray(np.concatenate([colors, alpha], axis=2))).convert("RGB"))
    return np.array(np.broadcast_to(colors, (*pixels.shape[:2], 3)))


def tensor_to_rgb(tensor: torch.Tensor, value_range: ValueRange | None = None) -> np.ndarray:
    """As `array_to_rgb`, of a tensor (H,W), or one with 1, 3 or 4 channels, the first axis or else the last."""
    pixels = tensor.detach().cpu()
    # NumPy has no bfloat16.
    array = (pixels.float() if pixels.is_floating_point() else pixels).numpy()
    # A tensor of 3, first or last, is hardly a picture of 3 rows; where both are 3, the order is PyTorch's.
    if array.ndim == 3 and (array.shape[0] == 3 or (array.shape[0] in (1, 4) and array.shape[2] != 3)):
        array = np.moveaxis(array, 0, -1)
    return array_to_rgb(array, "an image tensor", value_range)


def _is_turned(image: Image.Image) -> bool:
    """Whether an EXIF orientation other than upright has yet to be applied to an image."""
    return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _is_cut_to_8_bits(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has 16 bits a channel in colour, of which Pillow reads the upper 8."""
    return image.mode in ("RGB", "RGBA") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))

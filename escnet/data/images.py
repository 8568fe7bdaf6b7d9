"""Reading photographs as RGB and label files as class ids, and writing label files, with errors that name the file."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from escnet.safe_files import replacing

Decoded = TypeVar("Decoded")

# What Pillow's decoders and its reader of EXIF raise on damaged data, besides its own exceptions.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)
_ORIENTATION_TAG = 0x0112
_WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_ACCEPTED = (
    "accepted are a PIL image, or an array of shape (H,W), (H,W,1), (H,W,3) RGB or (H,W,4) RGBA with H, W >= 1 "
    "and values uint8, uint16 (full range) or floating point in 0..1"
)


class ImageError(ValueError):
    """A file that cannot serve as an image or as a label map. The message names the file, the fault and the remedy."""


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a photograph as an (H,W,3) uint8 RGB array, upright by its EXIF orientation.

    Every Pillow mode is converted as by :func:`to_rgb`. Of an animation the first frame is read.

    Raises:
        ImageError: the file is missing, empty, truncated, not an image, or too large to be safe to decode.
    """

    def decode(image: Image.Image) -> np.ndarray:
        ImageOps.exif_transpose(image, in_place=True)
        return _pil_to_rgb(image)

    return _decode(Path(path), decode)


def to_rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """Convert a picture in memory to an (H,W,3) uint8 RGB array.

    Transparent pixels are composited on white. 16-bit values are scaled by the full 16-bit range (65535 is white),
    floating point by the range 0..1; a floating-point PIL image that exceeds 1 is taken to use the 16-bit range.
    A PIL image with an EXIF orientation is turned upright, so that it gives the same pixels as its file.

    Args:
        image: PIL image, or array (H,W), (H,W,1), (H,W,3) or (H,W,4) of uint8, uint16 or floating point in 0..1.

    Raises:
        ValueError: another type, shape, data type or value range; the message says what is accepted.
    """
    if isinstance(image, Image.Image):
        return _pil_to_rgb(ImageOps.exif_transpose(image))
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image)
    raise ValueError(f"an image cannot be of type {type(image).__name__}; {_ACCEPTED}")


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a label map as an (H,W) integer array of the ids as they stand in the file.

    8-bit grey, palette (the indices, not their colours), 16-bit and 32-bit integer PNG or TIFF are read. An EXIF
    orientation is not applied.

    Raises:
        ImageError: the file cannot be decoded, or is not a single-channel map of integers.
    """
    path = Path(path)

    def decode(image: Image.Image) -> np.ndarray:
        if image.mode not in ("L", "P", *_WIDE_MODES) or image.mode == "F":
            raise ImageError(
                f"{path}: a label file has to be a single-channel map of class ids (8-bit grey or palette, or 16-bit "
                f"grey), but this one has the mode {image.mode}; convert colours to class ids first, with the "
                f"prepare script of the dataset"
            )
        labels = np.array(image)
        return labels.astype(labels.dtype.newbyteorder("="), copy=False)

    return _decode(path, decode)


def label_bits(path: str | os.PathLike[str]) -> int:
    """The bits of a label file's pixels, 8 or 16 (32-bit integers hold 16-bit ids), from its header alone.

    Raises:
        ImageError: the file cannot be read, or is not a single-channel map of integers.
    """
    mode = image_mode(path)
    if mode in ("L", "P"):
        return 8
    if mode == "I" or mode.startswith("I;16"):
        return 16
    raise ImageError(f"{path}: has the mode {mode}; a label map has one channel of class ids, 8 or 16 bits deep")


def image_mode(path: str | os.PathLike[str]) -> str:
    """Pillow's mode of an image file, from its header alone."""
    return _read_header(path)[0]


def image_size(path: str | os.PathLike[str], upright: bool = True) -> tuple[int, int]:
    """The (height, width) of a photograph from its header alone, by default as it is after its EXIF orientation."""
    _, size, orientation = _read_header(path, with_orientation=upright)
    return size[::-1] if orientation >= 5 else size


def has_orientation(path: str | os.PathLike[str]) -> bool:
    """Whether a photograph has an EXIF orientation other than upright."""
    return _read_header(path, with_orientation=True)[2] != 1


def write_labels(path: str | os.PathLike[str], labels: np.ndarray, bits: int | None = None) -> None:
    """Write an (H,W) integer array as a grey image: TIFF if `path` ends in .tif or .tiff, else PNG. Never half-written.

    Both are compressed without loss.

    Args:
        bits: of a pixel, 8 or 16. By default 8 if every id is below 256, else 16.

    Raises:
        ValueError: not a non-empty (H,W) integer array, ids that the bits do not hold, or other bits than 8 and 16.
    """
    path = Path(path)
    if labels.ndim != 2 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path}: labels have to be (H,W) integers, got shape {labels.shape} of {labels.dtype}")
    if bits not in (None, 8, 16):
        raise ValueError(f"{path}: label files have 8 or 16 bits, not {bits}")
    lowest, highest = int(labels.min()), int(labels.max())
    if bits is None:
        bits = 8 if highest < 256 else 16
    if lowest < 0 or highest >= 2**bits:
        raise ValueError(
            f"{path}: {bits} bits hold the ids 0..{2**bits - 1}, got {lowest}..{highest}; "
            f"write 16 bits, or map ignored pixels to an id that fits"
        )
    is_tiff = path.suffix.lower() in (".tif", ".tiff")
    options = {"format": "TIFF", "compression": "tiff_adobe_deflate"} if is_tiff else {"format": "PNG"}
    with replacing(path) as temporary:
        Image.fromarray(labels.astype(np.uint8 if bits == 8 else np.uint16)).save(temporary, **options)


def _read_header(path: str | os.PathLike[str], with_orientation: bool = False) -> tuple[str, tuple[int, int], int]:
    """The mode, the stored (height, width) and the EXIF orientation (1 if it is not asked for) of an image file."""
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(_ORIENTATION_TAG, 1) if with_orientation else 1
            return image.mode, (image.height, image.width), orientation
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read as an image ({error}); unpack or download it again") from error


def _decode(path: Path, decode: Callable[[Image.Image], Decoded]) -> Decoded:
    """Open `path`, load its pixels and apply `decode`, turning everything that can go wrong into an ImageError."""
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise ImageError(f"{path}: {what}; check the path, and that the dataset is unpacked and its links are intact")
    if path.stat().st_size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy or download it again")
    try:
        with Image.open(path) as image:
            image.load()
            return decode(image)
    except ImageError:
        raise
    except PermissionError as error:
        raise ImageError(f"{path}: may not be read ({error.strerror}); change its permissions") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: is not an image of a known format; remove the file, or save it as PNG or JPEG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path}: too large to be decoded safely ({error}); shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS "
            f"if the file can be trusted"
        ) from error
    except _DECODING_ERRORS as error:
        raise ImageError(
            f"{path}: is truncated, damaged, or of a kind that cannot be converted ({error}); "
            f"copy or download it again, or save it as PNG or JPEG"
        ) from error


def _pil_to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in _WIDE_MODES:
        return _array_to_rgb(_wide_to_array(image))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _wide_to_array(image: Image.Image) -> np.ndarray:
    """The pixels of a 16- or 32-bit PIL image as uint16, or as floating point in 0..1."""
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= 65535):  # written so that NaN is refused too
        raise ValueError(f"a {image.mode} image with values {lowest}..{highest}; expected 0..65535")
    if image.mode == "F" and highest <= 1:
        return values
    return np.rint(values).astype(np.uint16)


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.size == 0:
        raise ValueError(f"an image array cannot have the shape {array.shape}; {_ACCEPTED}")
    pixels = _to_uint8(pixels)
    if pixels.shape[2] == 4:
        return _pil_to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _to_uint8(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating):
        lowest, highest = values.min(), values.max()
        if not (lowest >= 0 and highest <= 1):
            raise ValueError(f"an image array of {values.dtype} cannot have values {lowest}..{highest}; {_ACCEPTED}")
        return np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    raise ValueError(f"an image array cannot be of {values.dtype}; {_ACCEPTED}")

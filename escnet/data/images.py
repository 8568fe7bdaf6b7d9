"""Reading photographs as RGB and label files as class ids, and writing label files, with errors that name the file."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from escnet.data.opening import MAX_PIXELS, check_pixels, open_image
from escnet.data.pages import Page, pages_of
from escnet.data.pixels import ACCEPTED, WIDE_MODES, array_to_rgb, pil_to_rgb, tensor_to_rgb
from escnet.data.value_range import ValueRange, ValueRangeError
from escnet.safe_files import replacing

if TYPE_CHECKING:
    import torch

Decoded = TypeVar("Decoded")
Source = str | os.PathLike[str] | bytes | BinaryIO

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


class ImageError(ValueError):
    """A file that cannot serve as an image or as a label map. The message names the file, the fault and the remedy."""


def read_image(
    source: Source, value_range: ValueRange | None = None, max_pixels: int | None = MAX_PIXELS
) -> np.ndarray:
    """Read a photograph as an (H,W,3) uint8 RGB array, upright by its EXIF orientation.

    Every Pillow mode is converted as by :func:`to_rgb`. Of an animation, and of a TIFF of several pages, the first is
    read; the others by :func:`read_pages`.

    Args:
        source: path, contents of an image file, or the file opened in binary mode, which stays open; or a page, as
            :func:`~escnet.data.pages.pages_of` lists those of a TIFF.
        value_range: the values of black and of white; by default what :func:`to_rgb` says.
        max_pixels: the most pixels that are decoded; None for no limit, by default Pillow's, 179 million.

    Raises:
        ImageError: the file is missing, empty, truncated, not an image, or too large to be safe to decode; or its
            values may mean more than one range.
    """
    remedy = (
        "shrink it, or allow more if the file can be trusted: --max-pixels on the command line of tools/predict.py, in "
        "Python read_image(..., max_pixels=N) or None for no limit, or PIL.Image.MAX_IMAGE_PIXELS for all files"
    )
    return _decode(source, lambda image, name: pil_to_rgb(image, name, value_range), max_pixels, remedy)


def any_picture(image: Any, value_range: ValueRange | None = None, max_pixels: int | None = MAX_PIXELS) -> np.ndarray:
    """A picture in any form that a segmenter takes, as an (H,W,3) uint8 RGB array.

    Args:
        image: what `read_image` reads, or what `to_rgb` converts.
        value_range, max_pixels: as for these.

    Raises:
        ImageError, ValueError: as these do.
    """
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(image, "read"):
        return read_image(image, value_range=value_range, max_pixels=max_pixels)
    return to_rgb(image, value_range=value_range)


def read_pages(
    path: str | os.PathLike[str], value_range: ValueRange | None = None, max_pixels: int | None = MAX_PIXELS
) -> Iterator[np.ndarray]:
    """Read the pages of a TIFF in turn, each as `read_image` does; any other file is a single page.

    Args:
        path: of the file.
        value_range, max_pixels: as for `read_image`, of each page.

    Raises:
        ImageError: as `read_image`; the message names the page.
    """
    for page in pages_of(Path(path)):
        yield read_image(page, value_range, max_pixels)


def read_reduced(source: Source, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Read a photograph that is going to be shrunk: as `read_image` does, but a JPEG is decoded at a part of its size.

    The decoder itself leaves out what 1/2, 1/4 or 1/8 of the size does not show, which takes a fraction of the time.

    Args:
        source: as for `read_image`.
        side: which no side of the result falls below, unless the photograph itself is smaller.

    Returns:
        (h,w,3) uint8 RGB, upright, and the (height, width) of the whole photograph, upright.

    Raises:
        ImageError: as `read_image`.
    """

    def decode(image: Image.Image, name: str) -> tuple[np.ndarray, tuple[int, int]]:
        size, is_turned = (image.height, image.width), image.getexif().get(_ORIENTATION_TAG, 1) >= 5
        image.draft(None, (side, side))
        return pil_to_rgb(image, name), size[::-1] if is_turned else size

    return _decode(source, decode, MAX_PIXELS, "shrink it")


def to_rgb(
    image: Image.Image | np.ndarray | torch.Tensor | bytes | BinaryIO, value_range: ValueRange | None = None
) -> np.ndarray:
    """Convert a picture in memory to an (H,W,3) uint8 RGB array.

    Transparent pixels are composited on white. White is 65535 for 16 bits and 1 for floating point; values that do not
    fit that, such as 12 bits in 16, or 0..255 in floating point, are scaled by the range that a TIFF declares or that
    :func:`~escnet.data.value_range.to_uint8` finds, with a warning. A PIL image with an EXIF orientation is turned
    upright, so that it gives the same pixels as its file.

    Args:
        image: PIL image; array (H,W), (H,W,1), (H,W,3) or (H,W,4) of uint8, uint16 or floating point; tensor of such
            values, with the channels first (which a tensor that may be both is taken to have) or last; contents of an
            image file, or the file opened in binary mode.
        value_range: the values of black and of white, which hold for pictures of 8 bits too. With it, arrays may be of
            any real type. Transparency is not scaled by it.

    Raises:
        ValueError: another type, shape, data type or value range; the message says what is accepted.
    """
    if isinstance(image, Image.Image):
        return pil_to_rgb(image, f"an image of the mode {image.mode}", value_range)
    # Only who has imported torch, which takes seconds, can have a tensor.
    if "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor):
        return tensor_to_rgb(image, value_range)
    if isinstance(image, np.ndarray):
        return array_to_rgb(image, "an image array", value_range)
    if isinstance(image, bytes | bytearray | memoryview) or hasattr(image, "read"):
        return read_image(image, value_range)
    raise ValueError(f"an image cannot be of type {type(image).__name__}; {ACCEPTED}")


def read_labels(path: str | os.PathLike[str], bits: int | None = None) -> np.ndarray:
    """Read a label map as an (H,W) integer array of the ids as they stand in the file.

    8-bit grey, palette (the indices, not their colours), 16-bit and 32-bit integer PNG or TIFF are read. Like a
    photograph, it is turned upright by its own EXIF orientation, if it has one.

    Args:
        bits: those of the label maps of the dataset, 8 or 16; None accepts either.

    Raises:
        ImageError: the file cannot be decoded, is not a single-channel map of integers, or has other bits.
    """
    path = Path(path)

    def decode(image: Image.Image, name: str) -> np.ndarray:
        image.load()
        if image.mode not in ("L", "P", *WIDE_MODES) or image.mode == "F":
            raise ImageError(
                f"{path}: a label file has to be a single-channel map of class ids (8-bit grey or palette, or 16-bit "
                f"grey), but this one has the mode {image.mode}; convert colours to class ids first, with the "
                f"prepare script of the dataset"
            )
        ImageOps.exif_transpose(image, in_place=True)
        labels = np.array(image)
        return labels.astype(labels.dtype.newbyteorder("="), copy=False)

    labels = _decode(path, decode, MAX_PIXELS, "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if it can be trusted")
    if bits is not None and bits_of(labels) != bits:
        raise ImageError(
            f"{path}: has {bits_of(labels)} bits a pixel, but the label maps of its dataset have {bits}, where another "
            f"id means not labelled; make it again with the prepare script of the dataset, or save it with {bits} bits "
            f"and that id"
        )
    return labels


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the picture of a mask, of any mode, as an (H,W) bool array, upright as a photograph is.

    Inside is what is neither zero (black) nor wholly transparent. A lossy format has no clean zeros: use PNG.

    Raises:
        ImageError: the file cannot be decoded.
    """

    def decode(image: Image.Image, name: str) -> np.ndarray:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in WIDE_MODES:
            return np.asarray(image) != 0
        pixels = np.asarray(image.convert("RGBA"))
        return pixels[..., :3].any(axis=2) & (pixels[..., 3] > 0)

    return _decode(Path(path), decode, MAX_PIXELS, "shrink it")


def bits_of(labels: np.ndarray) -> int:
    """The bits of the file that labels were read from, 8 or 16 (32-bit integers hold 16-bit ids)."""
    return 8 if labels.dtype.itemsize == 1 else 16


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
    return image_orientation(path) != 1


def image_orientation(path: str | os.PathLike[str]) -> int:
    """The EXIF orientation of a photograph, from its header alone: 1 for upright, or 2 to 8."""
    return _read_header(path, with_orientation=True)[2]


def exif_orientation(path: str | os.PathLike[str]) -> int:
    """The EXIF orientation of a picture of any size, from its header alone; 1, upright, where Pillow knows none."""
    try:
        with open(path, "rb") as file, open_image(file, None) as image:
            return image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODING_ERRORS:
        return 1


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
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be read as an image ({error}); unpack or download it again") from error


def _decode(
    source: Source, decode: Callable[[Image.Image, str], Decoded], max_pixels: int | None, too_large: str
) -> Decoded:
    """Open `source` and apply `decode` to it and its name, turning everything that can go wrong into an ImageError.

    `too_large` is the remedy for a file of too many pixels.
    """
    name, file = _named(source)
    try:
        # Of a path, Pillow maps the file into memory, and scrambles a grey TIFF whose orientation swaps its sides.
        stream = file.open("rb") if isinstance(file, Path) else nullcontext(file)
        with stream as opened, open_image(opened, max_pixels) as image:
            if isinstance(source, Page):
                image.seek(source.frame)
                check_pixels(image, max_pixels)
            return decode(image, name)
    except ImageError:
        raise
    except ValueRangeError as error:
        raise ImageError(str(error)) from error
    except PermissionError as error:
        raise ImageError(f"{name}: may not be read ({error.strerror}); change its permissions") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: is not an image of a known format; remove the file, or save it as PNG or JPEG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too large to be decoded safely ({error}); {too_large}") from error
    except _DECODING_ERRORS as error:
        raise ImageError(
            f"{name}: is truncated, damaged, or of a kind that cannot be converted ({error}); "
            f"copy or download it again, or save it as PNG or JPEG"
        ) from error


def _named(source: Source) -> tuple[str, Path | BinaryIO]:
    """The name of a picture in messages, and what Pillow opens."""
    if isinstance(source, bytes | bytearray | memoryview):
        name = f"a picture of {len(source)} bytes"
        if not len(source):
            raise ImageError(f"{name}: there is nothing to decode; read the file again")
        return name, io.BytesIO(source)
    if hasattr(source, "read"):
        name = str(getattr(source, "name", None) or "a file object")
        if isinstance(source, io.TextIOBase):
            raise ImageError(f"{name}: is opened as text; open it in binary mode, 'rb'")
        return name, source
    path = source.path if isinstance(source, Page) else Path(source)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise ImageError(f"{path}: {what}; check the path, and where links in it lead")
    if path.stat().st_size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy or download it again")
    return str(source if isinstance(source, Page) else path), path

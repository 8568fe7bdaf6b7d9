"""Bringing pixel values of any type to 8 bits, by the range of black to white that is given, declared or found."""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image
from PIL.TiffTags import TAGS_V2

logger = logging.getLogger(__name__)

ValueRange = tuple[float, float]

# The depths of cameras and sensors: a picture uses the smallest one that holds its values.
_DEPTHS = (8, 10, 12, 14, 16)
# Resampling and sharpening leave floating-point values a little above white.
_OVERSHOOT = 1.1
_MIN_TAGS, _MAX_TAGS = (
    [number for number, tag in TAGS_V2.items() if tag.name in names]
    for names in (("MinSampleValue", "SMinSampleValue"), ("MaxSampleValue", "SMaxSampleValue"))
)
_BITS_PER_SAMPLE = 258
_REMEDY = "say which values are black and white: value_range=(low, high) in Python, --value-range on the command line"
_reported: set[tuple[str, ValueRange]] = set()


class ValueRangeError(ValueError):
    """Pixel values whose black and white cannot be told; the message says which values, and how to say it."""


def declared_range(image: Image.Image) -> ValueRange | None:
    """The range that the tags of a TIFF declare: MinSampleValue..MaxSampleValue, or the bits if fewer than stored."""
    tags = getattr(image, "tag_v2", None)
    if not tags:
        return None
    lowest = [np.min(tags[number]) for number in _MIN_TAGS if number in tags]
    highest = [np.max(tags[number]) for number in _MAX_TAGS if number in tags]
    if highest:
        low, high = float(min(lowest, default=0)), float(max(highest))
        return (low, high) if low < high else None
    bits = np.max(tags.get(_BITS_PER_SAMPLE, 8))
    return (0, 2**bits - 1) if 8 < bits < 16 else None


def to_uint8(
    values: np.ndarray, name: str, value_range: ValueRange | None = None, declared: ValueRange | None = None
) -> np.ndarray:
    """Scale values linearly to 0..255, what is beyond the range being black or white.

    Without `value_range`, uint8 stays as it is. A `declared` range counts if all values are in it; else one is found:
    floating point 0..1 if nothing is above 1, and otherwise the smallest of 0..255 and 10, 12, 14 or 16 bits; lowest to
    highest value where some are negative. Any other range than that of the type (65535 or 1.0 is white) is reported as
    a warning, once for each range.

    Args:
        values: of any shape, one of the real types of NumPy.
        name: of the picture, for the warning.
        value_range: the values of black and of white.
        declared: range by the picture's file.

    Raises:
        ValueRangeError: `value_range` is not low < high; or values that are not finite, all negative, above 65535, or
            a highest floating-point value above 1 and up to 2, which may be one of 0..1 or of 0..255.
    """
    if value_range is None and values.dtype == np.uint8:
        return values
    lowest, highest = values.min(), values.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ValueRangeError(f"{name}: not all values are finite ({lowest}..{highest}); write numbers in their place")
    if value_range is not None:
        low, high = _checked(value_range)
    else:
        own = (0, 1) if np.issubdtype(values.dtype, np.floating) else (0, 65535)
        is_declared = declared is not None and declared[0] <= lowest and highest <= declared[1]
        low, high = declared if is_declared else _found_range(name, lowest, highest, own)
        if (low, high) != own:
            _report(name, f"{lowest:g}..{highest:g} of {values.dtype.name}", (low, high), is_declared)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _checked(value_range: ValueRange) -> ValueRange:
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        raise ValueRangeError(f"the value range is {value_range!r}; give two numbers, black and white") from None
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueRangeError(f"the value range is {low:g}..{high:g}; black has to be below white, and both finite")
    return low, high


def _found_range(name: str, lowest: np.number, highest: np.number, own: ValueRange) -> ValueRange:
    """The range that the lowest and the highest value speak for; `own` is that of their type."""
    is_float = own[1] == 1
    if highest > 65535:
        raise ValueRangeError(f"{name}: has values {lowest}..{highest}; expected 0..65535; {_REMEDY}")
    if lowest < 0:
        if highest <= 0:
            raise ValueRangeError(f"{name}: has no positive value ({lowest}..{highest}); {_REMEDY}")
        return float(lowest), float(highest)
    if highest == 0 or (is_float and highest <= 1):
        return own
    if is_float and highest <= 2:
        raise ValueRangeError(f"{name}: has values {lowest}..{highest}, of either 0..1 or 0..255; {_REMEDY}")
    if is_float and highest <= 255 * _OVERSHOOT:
        return 0, 255
    return 0, next(2**bits - 1 for bits in _DEPTHS if highest < 2**bits)


def _report(name: str, values: str, found: ValueRange, is_declared: bool) -> None:
    """Say once for each range how the values of a picture are read."""
    key = (values.rpartition(" ")[2], found)
    if key not in _reported:
        _reported.add(key)
        how = "declared by the file" if is_declared else "found in the picture"
        logger.warning(
            "%s: has values %s, read as %g = black .. %g = white (%s); if that is wrong, %s. Said once for this range",
            name, values, *found, how, _REMEDY,
        )  # fmt: skip

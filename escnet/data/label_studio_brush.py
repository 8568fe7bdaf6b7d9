"""Label Studio's run lengths of brushed masks (the packing of thi.ng/rle-pack): a stream of bits, written and read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# The stream: the number of values in 32 bits, the bits of a value less 1 in 5, and four widths less 1 in 4 each. Then
# blocks: a bit that says whether one value is repeated, two that choose the width in which the length less 1 follows,
# and the value, or so many values. A pixel has four values, red, green, blue and alpha, row by row.
_CHANNELS = 4
_ALPHA = 3
_COUNT_BITS, _VALUE_BITS, _WIDTH_BITS, _CHOICE_BITS = 32, 5, 4, 2
# What is written: the bits of a value, and the widths of a length.
_BYTE, _LENGTH_BITS = 8, (3, 6, 11, 16)
_LONGEST = 1 << _LENGTH_BITS[-1]


class BrushError(ValueError):
    """A stream that is cut off, damaged, or of another picture."""


def encode_brush(mask: np.ndarray) -> list[int]:
    """The bytes of a mask (H, W) bool, as the "rle" of a brush stroke.

    In front stand the number of values (32 bits), the bits of a value less one (5), and the four sizes of lengths less
    one (4 each). A run is a 1, the number of its size (2), its length less one, and its value; 0 or 255 here.

    Raises:
        ValueError: a mask of more pixels than the number of values can say.
    """
    if mask.size * _CHANNELS >= 1 << _COUNT_BITS:
        raise ValueError(f"a mask of {mask.size} pixels is too large for Label Studio's run lengths; use polygons")
    flat = mask.ravel().astype(np.uint8)
    starts = np.flatnonzero(np.diff(flat, prepend=1 - flat[:1]))
    lengths = np.diff(starts, append=flat.size) * _CHANNELS
    bits = [f"{mask.size * _CHANNELS:0{_COUNT_BITS}b}", f"{_BYTE - 1:0{_VALUE_BITS}b}"]
    bits += [f"{size - 1:04b}" for size in _LENGTH_BITS]
    for value, length in zip((flat[starts] * 255).tolist(), lengths.tolist(), strict=True):
        full, rest = divmod(length, _LONGEST)
        bits += [_run(_LONGEST, value)] * full + [_run(rest, value)] * (rest > 0)
    packed = np.packbits(np.frombuffer("".join(bits).encode("ascii"), np.uint8) - ord("0"))
    return packed.tolist()


def _run(length: int, value: int) -> str:
    size = next(number for number, bits in enumerate(_LENGTH_BITS) if length <= 1 << bits)
    return f"1{size:02b}{length - 1:0{_LENGTH_BITS[size]}b}{value:0{_BYTE}b}"


def decode_brush(stream: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The (H,W) bool mask of a stream: where alpha is not 0.

    Args:
        stream: bytes, as numbers 0..255.
        size: (height, width) of the picture.

    Raises:
        BrushError: it is cut off, or its values are not four for each of these pixels.
    """
    try:
        bits = _Bits(bytes(stream))
    except (TypeError, ValueError) as error:
        raise BrushError(f"the run lengths are no list of numbers 0..255 ({error})") from None
    count, word = bits.number(_COUNT_BITS), bits.number(_VALUE_BITS) + 1
    widths = [bits.number(_WIDTH_BITS) + 1 for _ in range(4)]
    # Before anything of the size that a file from elsewhere names is made.
    if count != _CHANNELS * size[0] * size[1]:
        raise BrushError(f"the run lengths are of {count} values, not of 4 for each of {size[1]}x{size[0]} pixels")
    values = np.zeros(count, dtype=np.uint32)
    start = 0
    while start < count:
        kind = bits.number(1 + _CHOICE_BITS)
        end = start + bits.number(widths[kind & 3]) + 1
        if end > count:
            raise BrushError(f"the run lengths go on to value {end} of {count}")
        values[start:end] = bits.number(word) if kind > 3 else bits.numbers(end - start, word)
        start = end
    return values.reshape(*size, _CHANNELS)[..., _ALPHA] > 0


class _Bits:
    """Reads numbers of some bits each, highest bit first, from bytes."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream
        self._place = 0

    def number(self, width: int) -> int:
        """The next number of `width` bits."""
        end = self._advance(width)
        start = end - width
        whole = int.from_bytes(self._stream[start // 8 : (end + 7) // 8], "big")
        return (whole >> (-end % 8)) & ((1 << width) - 1)

    def numbers(self, count: int, width: int) -> np.ndarray:
        """The next `count` numbers of `width` bits."""
        end = self._advance(count * width)
        start = end - count * width
        part = np.frombuffer(self._stream[start // 8 : (end + 7) // 8], dtype=np.uint8)
        bits = np.unpackbits(part)[start % 8 :][: count * width].reshape(count, width)
        return bits.astype(np.uint32) @ (np.uint32(1) << np.arange(width - 1, -1, -1, dtype=np.uint32))

    def _advance(self, width: int) -> int:
        self._place += width
        if self._place > 8 * len(self._stream):
            raise BrushError(f"the run lengths are cut off after {len(self._stream)} bytes")
        return self._place

"""Label Studio's run lengths of a brush stroke: the packing of thi.ng/rle-pack, of RGBA values."""

from __future__ import annotations

import numpy as np

# Bits of a value, bits of its length in four sizes, values of a pixel from red to transparency; bits of their number.
_VALUE_BITS, _LENGTH_BITS, _CHANNELS, _NUMBER_BITS = 8, (3, 6, 11, 16), 4, 32
_LONGEST = 1 << _LENGTH_BITS[-1]


def encode_brush(mask: np.ndarray) -> list[int]:
    """The bytes of a mask (H, W) bool, as the "rle" of a brush stroke.

    In front stand the number of values (32 bits), the bits of a value less one (5), and the four sizes of lengths less
    one (4 each). A run is a 1, the number of its size (2), its length less one, and its value; 0 or 255 here.

    Raises:
        ValueError: a mask of more pixels than the number of values can say.
    """
    if mask.size * _CHANNELS >= 1 << _NUMBER_BITS:
        raise ValueError(f"a mask of {mask.size} pixels is too large for Label Studio's run lengths; use polygons")
    flat = mask.ravel().astype(np.uint8)
    starts = np.flatnonzero(np.diff(flat, prepend=1 - flat[:1]))
    lengths = np.diff(starts, append=flat.size) * _CHANNELS
    bits = [f"{mask.size * _CHANNELS:0{_NUMBER_BITS}b}", f"{_VALUE_BITS - 1:05b}"]
    bits += [f"{size - 1:04b}" for size in _LENGTH_BITS]
    for value, length in zip((flat[starts] * 255).tolist(), lengths.tolist(), strict=True):
        full, rest = divmod(length, _LONGEST)
        bits += [_run(_LONGEST, value)] * full + [_run(rest, value)] * (rest > 0)
    packed = np.packbits(np.frombuffer("".join(bits).encode("ascii"), np.uint8) - ord("0"))
    return packed.tolist()


def _run(length: int, value: int) -> str:
    size = next(number for number, bits in enumerate(_LENGTH_BITS) if length <= 1 << bits)
    return f"1{size:02b}{length - 1:0{_LENGTH_BITS[size]}b}{value:0{_VALUE_BITS}b}"

"""Label Studio's brush run lengths: streams worked out by hand, and masks there and back."""

from __future__ import annotations

import numpy as np
import pytest

from escnet.data.label_studio_brush import BrushError, decode_brush, encode_brush

# 8 values of 8 bits, widths 3, 4, 8 and 16: 00000000 00000000 00000000 00001000 | 00111 | 0010 0011 0111 1111, then
# four zeros, 1 00 011 00000000, and four of 255, 1 00 011 11111111; seven bits are left of the last byte.
LEFT_OUT_RIGHT_IN = [0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128]


def pack(*fields: tuple[int, int]) -> list[int]:
    """The bytes of (number, bits)."""
    text = "".join(format(number, f"0{bits}b") for number, bits in fields)
    return [int(text[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(text), 8)]


def encode(mask: np.ndarray) -> list[int]:
    """The stream of a mask, written from the description: runs in the smallest width that holds them."""
    flat, fields = mask.ravel(), []
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    for start, pixels in zip(starts.tolist(), np.diff(starts, append=flat.size).tolist(), strict=True):
        for first in range(0, 4 * pixels, 65536):
            length = min(65536, 4 * pixels - first)
            choice = next(place for place, width in enumerate((3, 4, 8, 16)) if length <= 2**width)
            value = 255 if flat[start] else 0
            fields += [(1, 1), (choice, 2), (length - 1, (3, 4, 8, 16)[choice]), (value, 8)]
    return pack((4 * flat.size, 32), *HEADER, *fields)


HEADER = ((7, 5), (2, 4), (3, 4), (7, 4), (15, 4))


def test_a_stream_worked_out_by_hand() -> None:
    mask = np.array([[False, True]])
    assert encode(mask) == LEFT_OUT_RIGHT_IN
    np.testing.assert_array_equal(decode_brush(LEFT_OUT_RIGHT_IN, (1, 2)), mask)


def test_values_one_by_one_and_only_alpha_counts() -> None:
    literal = [9, 9, 9, 0, 0, 0, 0, 1, 255, 255, 255, 255]
    # 0: values follow, 01: the length less 1 in the second width, of 4 bits.
    stream = pack((12, 32), *HEADER, (0, 1), (1, 2), (11, 4), *((value, 8) for value in literal))
    assert decode_brush(stream, (1, 3)).tolist() == [[False, True, True]]


def test_other_widths_and_mixed_blocks() -> None:
    # Values of 4 bits; widths 1, 2, 5 and 6.
    stream = pack(
        *((20, 32), (3, 5), (0, 4), (1, 4), (4, 4), (5, 4)),
        *((1, 1), (1, 2), (3, 2), (15, 4)),
        *((0, 1), (0, 2), (1, 1), (1, 4), (2, 4)),
        *((1, 1), (2, 2), (13, 5), (0, 4)),
    )
    assert decode_brush(stream, (1, 5)).tolist() == [[True, False, False, False, False]]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (200, 150)])
def test_masks_there_and_back(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    coarse = np.kron(generator.random((2, 2)) > 0.5, np.ones(size, dtype=bool))[: size[0], : size[1]]
    for mask in (np.zeros(size, bool), np.ones(size, bool), generator.random(size) > 0.7, coarse):
        np.testing.assert_array_equal(decode_brush(encode(mask), size), mask)
        np.testing.assert_array_equal(decode_brush(encode_brush(mask), size), mask)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (LEFT_OUT_RIGHT_IN[:-2], "cut off after 9 bytes"),
        ([], "cut off after 0 bytes"),
        ([0, 0, 0, 8, 256], "no list of numbers 0..255"),
        ("text", "no list of numbers"),
        ([255] * 40, "of 4294967295 values, not of 4 for each of 2x1 pixels"),
        (pack((8, 32), *HEADER, (1, 1), (1, 2), (15, 4), (0, 8)), "go on to value 16 of 8"),
    ],
)
def test_damaged_streams_are_refused(stream: object, message: str) -> None:
    with pytest.raises(BrushError, match=message):
        decode_brush(stream, (1, 2))

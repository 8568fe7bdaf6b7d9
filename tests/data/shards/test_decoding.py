"""Stored images as squares: reduced decoding, crops within their ranges, resizing as Pillow does it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from escnet.data.images import read_image, read_reduced
from escnet.data.shards.accounting import UnusableSampleError
from escnet.data.shards.decoding import Augmentation, Crop, decode_image, draw_crop, to_square


def photograph(size: tuple[int, int], orientation: int = 1) -> bytes:
    """A JPEG of (height, width) with smooth colours."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([255 * rows / height, 255 * columns / width, 99 + 0 * rows], axis=2).astype(np.uint8)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, format="JPEG", quality=95, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_reduced_image_is_a_smaller_one_of_the_same(orientation: int) -> None:
    data = photograph((480, 640), orientation)
    reduced, stored = read_reduced(data, 100)
    whole = read_image(data)
    assert stored == whole.shape[:2] == ((480, 640) if orientation == 1 else (640, 480))
    assert reduced.shape[:2] == (stored[0] // 4, stored[1] // 4)
    difference = to_square(whole, 50).float() - to_square(reduced, 50).float()
    assert difference.abs().max() <= 3


def test_an_image_is_not_reduced_below_the_wanted_side() -> None:
    assert read_reduced(photograph((100, 400)), 60)[0].shape == (100, 400, 3)
    assert decode_image(photograph((400, 400)), 100, 16)[0].shape == (200, 200, 3)


@pytest.mark.parametrize("crop", [None, Crop(3, 5, 40, 60, False), Crop(3, 5, 40, 60, True)])
def test_resizing_is_that_of_pillow(crop: Crop | None) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    box = None if crop is None else (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    expected = np.asarray(Image.fromarray(pixels).crop(box).resize((24, 24), Image.Resampling.BICUBIC))
    if crop is not None and crop.is_flipped:
        expected = expected[:, ::-1]
    square = to_square(pixels, 24, crop)
    assert square.shape == (3, 24, 24) and square.dtype == torch.uint8 and square.is_contiguous()
    assert np.abs(square.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_crops_have_the_area_and_the_ratio_that_are_asked_for() -> None:
    augmentation = Augmentation((0.3, 0.6), (0.8, 1.25))
    crops = [draw_crop((300, 400), augmentation, np.random.RandomState(seed)) for seed in range(500)]
    for crop in crops:
        assert 0 <= crop.top <= 300 - crop.height and 0 <= crop.left <= 400 - crop.width
        assert 0.295 <= crop.height * crop.width / 120000 <= 0.605
        assert 0.79 <= crop.width / crop.height <= 1.27
    assert 200 < sum(crop.is_flipped for crop in crops) < 300
    assert len({(crop.top, crop.left) for crop in crops}) > 400


@pytest.mark.parametrize(("size", "expected"), [((20, 400), (20, 27)), ((400, 20), (27, 20)), ((1, 1), (1, 1))])
def test_where_no_crop_fits_the_largest_in_the_middle_is_taken(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    crop = draw_crop(size, Augmentation((0.9, 1.0)), np.random.RandomState(0))
    assert (crop.height, crop.width) == expected
    assert (crop.top, crop.left) == tuple((side - cut) // 2 for side, cut in zip(size, expected, strict=True))


@pytest.mark.parametrize("data", [b"", b"no picture", photograph((50, 50))[:400]])
def test_what_is_no_image_cannot_be_used(data: bytes) -> None:
    with pytest.raises(UnusableSampleError, match=r"^(is|a picture of 0 bytes|there is)"):
        decode_image(data, 32, 16)


def test_small_images_cannot_be_used() -> None:
    with pytest.raises(UnusableSampleError, match="has 40x20 pixels, where no side may be below 21"):
        decode_image(photograph((20, 40)), 8, 21)
    assert decode_image(photograph((20, 40)), 8, 20)[1] == (20, 40)

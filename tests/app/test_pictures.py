"""Uploads: upright pixels of bounded size, known by their contents, with the user's name in errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from escnet.app.limits import Limits
from escnet.app.pictures import read_uploaded
from escnet.data.images import ImageError, read_image


def written(path: Path, width: int, height: int, orientation: int = 1) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).resize((width, height)).save(path, exif=exif)
    return path


def test_a_small_picture_is_as_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jpg", 80, 48, orientation=6)
    picture = read_uploaded(path, "my.jpg", Limits())
    assert np.array_equal(picture.pixels, read_image(path))
    assert picture.pixels.shape == (80, 48, 3)
    assert picture.note == ""
    again = read_uploaded(written(tmp_path / "b.jpg", 80, 48, orientation=6), "other.jpg", Limits())
    assert again.digest == picture.digest
    assert read_uploaded(written(tmp_path / "c.jpg", 88, 48), "my.jpg", Limits()).digest != picture.digest


@pytest.mark.parametrize(("name", "orientation"), [("a.png", 1), ("a.jpg", 1), ("a.jpg", 6)])
def test_a_large_picture_is_shrunk_with_a_note(tmp_path: Path, name: str, orientation: int) -> None:
    path = written(tmp_path / name, 800, 400, orientation)
    picture = read_uploaded(path, "my photo", Limits(pixels=20_000))
    width, height = (200, 100) if orientation == 1 else (100, 200)
    assert picture.pixels.shape == (height, width, 3)
    assert picture.note.startswith(
        f"my photo has {4 * width} x {4 * height} pixels and was shrunk to {width} x {height}"
    )
    whole = np.asarray(Image.fromarray(read_image(path)).resize((width, height), Image.Resampling.BOX), float)
    assert np.abs(picture.pixels - whole).mean() < 12


def test_a_thin_picture_keeps_a_pixel(tmp_path: Path) -> None:
    path = tmp_path / "thin.png"
    Image.new("RGB", (5000, 1)).save(path)
    height, width, _ = read_uploaded(path, "thin", Limits(pixels=1000)).pixels.shape
    assert (height, width) == (1, 1000)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", r"^holiday.jpg: the file is empty \(0 bytes\)"),
        (b"no picture at all", "^holiday.jpg: is not an image of a known format"),
        ("truncated", "^holiday.jpg: is truncated, damaged"),
    ],
)
def test_errors_have_the_name_that_the_user_knows(tmp_path: Path, contents: bytes | str, message: str) -> None:
    path = tmp_path / "stored_under_another_name.png"
    if contents == "truncated":
        contents = written(tmp_path / "whole.png", 160, 160).read_bytes()[:2000]
    path.write_bytes(contents)
    with pytest.raises(ImageError, match=message) as refused:
        read_uploaded(path, "holiday.jpg", Limits())
    assert str(tmp_path) not in str(refused.value)

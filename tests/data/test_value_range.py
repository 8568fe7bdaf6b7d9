"""Pictures that do not use the range of their type, and the ways to hand over a picture."""

from __future__ import annotations

import io
import logging
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from escnet.data import value_range
from escnet.data.images import ImageError, read_image, to_rgb


@pytest.fixture(autouse=True)
def nothing_reported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_range, "_reported", set())


def ramp(highest: float, dtype: type, lowest: float = 0) -> np.ndarray:
    """(2,3) values: lowest, middle and highest."""
    return np.tile(np.array([lowest, (lowest + highest) / 2, highest]), (2, 1)).astype(dtype)


def tiff(path: Path, values: np.ndarray, **tags: int) -> Path:
    numbers = {"lowest": 280, "highest": 281}
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[numbers[name]] = value
    Image.fromarray(values).save(path, tiffinfo=directory)
    return path


def color_png(path: Path, values: np.ndarray) -> Path:
    """(H,W,3) uint16 as a PNG of 16 bits a channel, which Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize(
    ("values", "expected", "told"),
    [
        (ramp(255, np.float32), [0, 128, 255], "0 = black .. 255 = white"),
        (ramp(256.5, np.float32), [0, 128, 255], "0 = black .. 255 = white"),
        (ramp(200, np.uint16), [0, 100, 200], "0 = black .. 255 = white"),
        (ramp(1023, np.uint16), [0, 127, 255], "0 = black .. 1023 = white"),
        (ramp(4095, np.uint16), [0, 127, 255], "0 = black .. 4095 = white"),
        (ramp(3000, np.uint16), [0, 93, 187], "0 = black .. 4095 = white"),
        (ramp(3000, np.float32), [0, 93, 187], "0 = black .. 4095 = white"),
        (ramp(16383, np.uint16), [0, 127, 255], "0 = black .. 16383 = white"),
        (ramp(1, np.float32, lowest=-1), [0, 128, 255], "-1 = black .. 1 = white"),
        (ramp(65535, np.uint16), [0, 127, 255], ""),
        (ramp(1, np.float32), [0, 128, 255], ""),
        (ramp(0, np.uint16), [0, 0, 0], ""),
    ],
)
def test_the_range_is_found_and_told_once(tmp_path, caplog, values, expected, told):
    file = tiff(tmp_path / "a.tiff", values)
    with caplog.at_level(logging.WARNING):
        from_file = read_image(file)
        for image in (from_file, read_image(file), to_rgb(values), to_rgb(Image.open(file))):
            np.testing.assert_array_equal(image, np.repeat(np.tile(np.array(expected), (2, 1))[..., None], 3, axis=2))
    assert [told in record.message for record in caplog.records] == [True] * bool(told)
    if told:
        assert str(file) in caplog.text and "--value-range" in caplog.text and "value_range=(low, high)" in caplog.text


def test_each_range_is_told(caplog):
    for highest in (1023, 1000, 4095, 1001):
        to_rgb(ramp(highest, np.uint16))
    assert len(caplog.records) == 2


def test_declared_by_the_tags_of_a_tiff(tmp_path, caplog):
    image = read_image(tiff(tmp_path / "a.tiff", ramp(2000, np.uint16), highest=4000))
    assert image[0, :, 0].tolist() == [0, 64, 128] and "0 = black .. 4000 = white (declared" in caplog.text
    image = read_image(tiff(tmp_path / "b.tiff", ramp(300, np.uint16, lowest=100), lowest=100, highest=300))
    assert image[0, :, 0].tolist() == [0, 128, 255]
    # Tags that the values belie count for nothing.
    image = read_image(tiff(tmp_path / "c.tiff", ramp(4095, np.uint16), highest=1))
    assert image[0, :, 0].tolist() == [0, 127, 255] and "(found" in caplog.text
    image = read_image(tiff(tmp_path / "d.tiff", ramp(2000, np.uint16), highest=4000), value_range=(0, 2000))
    assert image[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "values",
    [ramp(200, np.uint8), ramp(200, np.uint16), ramp(200, np.float64), ramp(200, np.int64), ramp(200, np.int16)],
)
def test_a_given_range_holds_for_every_type(caplog, values):
    assert to_rgb(values, value_range=(100, 200))[0, :, 0].tolist() == [0, 0, 255]
    assert to_rgb(torch.from_numpy(values), value_range=(0, 400))[0, :, 0].tolist() == [0, 64, 128]
    assert not caplog.records


def test_a_given_range_holds_for_files_of_8_bits(tmp_path):
    Image.fromarray(ramp(100, np.uint8)).convert("RGB").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", value_range=(0, 100))[0, :, 1].tolist() == [0, 128, 255]


def test_transparency_is_scaled_by_itself():
    pixels = np.concatenate([np.full((1, 2, 3), 200.0), np.array([[[1.0], [0.0]]])], axis=2)
    assert to_rgb(pixels)[0, :, 0].tolist() == [200, 255]
    assert to_rgb(pixels, value_range=(0, 400))[0, :, 0].tolist() == [128, 255]


def test_12_bits_in_16_bits_of_a_colour_picture(tmp_path, caplog):
    dark, bright = np.zeros((2, 3, 3), np.uint16), np.zeros((2, 3, 3), np.uint16)
    dark[0, 0], bright[0, 0] = (4095, 2048, 0), (65535, 4095, 0)
    assert read_image(color_png(tmp_path / "bright.png", bright))[0, 0].tolist() == [255, 15, 0] and not caplog.records
    image = read_image(color_png(tmp_path / "dark.png", dark))
    # Pillow gives the upper 8 of the 16 bits.
    np.testing.assert_allclose(image[0, 0], [255, 128, 0], atol=16)
    assert not image[1:].any() and "dark.png" in caplog.text and ".. 4095 = white" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (ramp(1.5, np.float32), r"0\.0\.\.1\.5, of either 0\.\.1 or 0\.\.255; say which"),
        (ramp(-1, np.float32, lowest=-5), r"no positive value \(-5\.0\.\.-1\.0\); say which"),
        (np.array([[0.5, np.nan]], np.float32), "not all values are finite"),
        (np.array([[0.5, np.inf]], np.float32), "not all values are finite"),
        (ramp(70000, np.float32), r"70000\.0; expected 0\.\.65535; say which"),
    ],
)
def test_what_may_mean_anything_is_refused(tmp_path, values, message):
    for picture in (values, torch.from_numpy(values), Image.fromarray(values)):
        with pytest.raises(ValueError, match=message):
            to_rgb(picture)
    with pytest.raises(ImageError, match=r"a\.tiff: .*" + message):
        read_image(tiff(tmp_path / "a.tiff", values))


@pytest.mark.parametrize("value", [(1, 1), (2, 1), (0, np.nan), (0,), "ab", 3])
def test_ranges_that_are_none(value):
    with pytest.raises(ValueError, match="the value range is"):
        to_rgb(ramp(3, np.uint16), value_range=value)


def test_tensors():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    last = torch.from_numpy(pixels)
    first = last.permute(2, 0, 1)
    for tensor in (last, first, first / 255, (last / 255).double(), (first / 255).requires_grad_()):
        np.testing.assert_array_equal(to_rgb(tensor), pixels)
    assert np.abs(to_rgb((first / 255).bfloat16()).astype(int) - pixels).max() <= 1
    assert to_rgb(first[:1]).shape == to_rgb(first[0]).shape == (4, 5, 3)
    with pytest.raises(ValueError, match=r"image tensor cannot have the shape \(1, 3, 4, 5\)"):
        to_rgb(first[None])
    with pytest.raises(ValueError, match="image tensor cannot be of int64"):
        to_rgb(first.long())


def test_contents_and_opened_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    contents = path.read_bytes()
    with path.open("rb") as opened:
        for source in (contents, bytearray(contents), memoryview(contents), io.BytesIO(contents), opened):
            for read in (to_rgb, read_image):
                if hasattr(source, "seek"):
                    source.seek(0)
                np.testing.assert_array_equal(read(source), pixels)
        assert not opened.closed
    with pytest.raises(ImageError, match="a picture of 0 bytes: there is nothing"):
        to_rgb(b"")
    with pytest.raises(ImageError, match="a picture of 7 bytes: is not an image"):
        to_rgb(b"nothing")
    with path.open(encoding="latin-1") as opened, pytest.raises(ImageError, match=r"a\.png: is opened as text.*'rb'"):
        read_image(opened)


def test_more_pixels_can_be_allowed(tmp_path, monkeypatch):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ImageError, match=r"a\.png: too large.*--max-pixels.*max_pixels=N"):
        read_image(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=None).shape == (10, 10, 3)
    assert read_image(tmp_path / "a.png", max_pixels=10**9).shape == (10, 10, 3)
    with pytest.raises(ImageError, match="100 pixels, where 99 are allowed"):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        read_image(tmp_path / "a.png", max_pixels=99)


def test_the_limit_of_the_process_is_restored(tmp_path):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    limit = Image.MAX_IMAGE_PIXELS
    threads = [threading.Thread(target=read_image, args=(tmp_path / "a.png", None, None)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ImageError):
        read_image(tmp_path / "missing.png", max_pixels=None)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_grey_tiff_that_is_turned_by_90_degrees(tmp_path):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], np.rot90(pixels, -1))

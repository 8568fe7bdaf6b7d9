"""Reading images of every kind as RGB, reading and writing label maps, and errors that name the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from escnet.data.images import ImageError, read_image, read_labels, read_mask, to_rgb, write_labels
from escnet.safe_files import replacing

RED, WHITE = (255, 0, 0), (255, 255, 255)


def picture(height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def test_rgb_is_read_unchanged(tmp_path):
    pixels = picture()
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert image.dtype == np.uint8 and image.flags.writeable
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(tmp_path, orientation):
    # The eight orientations of the EXIF standard, as what has to be done to the stored rows and columns.
    upright = {
        1: lambda stored: stored,
        2: lambda stored: stored[:, ::-1],
        3: lambda stored: stored[::-1, ::-1],
        4: lambda stored: stored[::-1],
        5: lambda stored: stored.swapaxes(0, 1),
        6: lambda stored: np.rot90(stored, -1),
        7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
        8: lambda stored: np.rot90(stored, 1),
    }[orientation](picture())
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(picture()), exif=exif)
    np.testing.assert_array_equal(read_image(path), upright)
    np.testing.assert_array_equal(to_rgb(Image.open(path)), upright)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, WHITE),
        ("1", 0, (0, 0, 0)),
        ("LA", (77, 255), (77, 77, 77)),
        ("LA", (77, 0), WHITE),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),  # one fifth red over white
        ("CMYK", (0, 255, 255, 0), RED),
        ("I;16", 65535, WHITE),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I;16B", 257 * 100, (100, 100, 100)),
        ("I", 257 * 100, (100, 100, 100)),
        ("F", 257.0 * 100, (100, 100, 100)),
        ("F", 0.2, (51, 51, 51)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, color, expected):
    image = Image.new(mode, (4, 3), color)
    from_file = read_image(saved(tmp_path / "a.tiff", image))
    for array in (from_file, to_rgb(image)):
        assert array.shape == (3, 4, 3) and array.dtype == np.uint8
        assert (array == expected).all()


def test_palette_with_a_transparent_color(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    opaque = read_image(saved(tmp_path / "opaque.png", image))
    np.testing.assert_array_equal(opaque[0], [RED, (0, 0, 255)])
    transparent = read_image(saved(tmp_path / "transparent.png", image, transparency=1))
    np.testing.assert_array_equal(transparent[0], [RED, WHITE])


def test_16_bit_png_uses_the_whole_range(tmp_path):
    values = np.array([[0, 128, 129, 32896, 65534, 65535]], dtype=np.uint16)
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(values)))
    np.testing.assert_array_equal(image[0, :, 0], np.rint(values[0] / 257))


@pytest.mark.parametrize("size", [(1, 1), (10000, 50), (50, 10000)])
def test_extreme_sizes_are_read(tmp_path, size):
    image = read_image(saved(tmp_path / "a.png", Image.new("RGB", size, RED)))
    assert image.shape == (size[1], size[0], 3) and (image == RED).all()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((2, 3), 77, np.uint8), 77),
        (np.full((2, 3, 1), 77, np.uint8), 77),
        (np.full((2, 3, 3), 77, np.uint8), 77),
        (np.full((2, 3, 3), 77 * 257, np.uint16), 77),
        (np.full((2, 3, 3), 77 / 255, np.float64), 77),
        (np.full((2, 3, 4), 0, np.uint8), 255),
        (np.concatenate([np.zeros((2, 3, 3)), np.full((2, 3, 1), 0.2)], axis=2), 204),
    ],
)
def test_arrays_become_rgb(array, expected):
    image = to_rgb(array)
    assert image.shape == (2, 3, 3) and image.dtype == np.uint8 and (image == expected).all()


def test_to_rgb_does_not_share_memory():
    array = picture()
    to_rgb(array)[:] = 0
    np.testing.assert_array_equal(array, picture())


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"\(3, 8, 9\)"),
        (np.zeros((8, 9, 2), np.uint8), r"\(8, 9, 2\)"),
        (np.zeros((0, 9, 3), np.uint8), r"\(0, 9, 3\)"),
        (np.zeros((8, 9, 3), np.int64), "int64"),
        (np.zeros((8, 9, 3), bool), "bool"),
        (np.full((8, 9, 3), 2.0), r"2\.0"),
        (np.full((8, 9, 3), np.nan), "nan"),
        (Image.new("I", (2, 2), 70000), "70000"),
        ("a path", "str"),
    ],
)
def test_other_arrays_are_refused(bad, named):
    with pytest.raises(ValueError, match=named):
        to_rgb(bad)


def test_refusal_says_what_is_accepted():
    with pytest.raises(ValueError, match=r"accepted are.*\(H,W,3\).*uint8.*0\.\.1"):
        to_rgb(np.zeros((8, 9, 2), np.uint8))


def broken_file(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / "broken.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "truncated png":
        path.write_bytes(saved(folder / "whole.png", Image.fromarray(picture(60, 80))).read_bytes()[:-1000])
    elif kind == "truncated jpeg":
        path.write_bytes(saved(folder / "whole.jpg", Image.fromarray(picture(60, 80))).read_bytes()[:-1000])
    elif kind == "header only":
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    elif kind == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
        saved(path, Image.fromarray(picture()))
    elif kind == "beyond 16 bits":
        saved(path.with_suffix(".tiff"), Image.new("I", (2, 2), 70000)).rename(path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist; check the path"),
        ("folder", "is a folder"),
        ("empty", "empty .0 bytes.; copy or download"),
        ("text", "not an image of a known format; remove"),
        ("truncated png", "truncated.*download it again"),
        ("truncated jpeg", "truncated.*download it again"),
        ("header only", "not an image|truncated"),
        ("bomb", "too large.*MAX_IMAGE_PIXELS"),
        ("beyond 16 bits", r"70000.*expected 0\.\.65535"),
    ],
)
def test_unusable_files_are_named(tmp_path, monkeypatch, kind, message):
    path = broken_file(kind, tmp_path, monkeypatch)
    with pytest.raises(ImageError, match=message) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path}: ")
    if kind != "beyond 16 bits":  # such ids are for the mapper to judge
        with pytest.raises(ImageError, match=message):
            read_labels(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "TIFF"])
@pytest.mark.parametrize("highest", [0, 255, 256, 65535])
@pytest.mark.parametrize("bits", [None, 8, 16])
def test_labels_survive_writing_and_reading(tmp_path, suffix, highest, bits):
    labels = np.arange(12).reshape(3, 4) * 7 % 100
    labels[1, 2] = highest
    labels = np.minimum(labels, highest)
    path = tmp_path / f"a.{suffix}"
    if bits == 8 and highest > 255:
        with pytest.raises(ValueError, match=rf"a.{suffix}: 8 bits hold the ids 0..255, got .*{highest}"):
            write_labels(path, labels, bits)
        assert not path.exists()
        return
    write_labels(path, labels, bits)
    with Image.open(path) as image:
        assert image.format == ("PNG" if suffix == "png" else "TIFF")
        assert image.mode == ("I;16" if (bits or (8 if highest < 256 else 16)) == 16 else "L")
    read = read_labels(path)
    assert np.issubdtype(read.dtype, np.integer) and read.dtype.isnative
    np.testing.assert_array_equal(read, labels)


def test_label_files_of_other_programs_are_read(tmp_path):
    labels = np.array([[0, 255], [256, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(read_labels(saved(tmp_path / "a.tif", Image.fromarray(labels))), labels)


def test_tiff_labels_are_compressed(tmp_path):
    write_labels(tmp_path / "a.tif", np.zeros((100, 100), int), bits=16)
    assert (tmp_path / "a.tif").stat().st_size < 1000  # 20000 bytes as they are


def test_other_bits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="8 or 16 bits, not 32"):
        write_labels(tmp_path / "a.png", np.zeros((2, 2), int), bits=32)


def test_palette_labels_are_indices_not_colors(tmp_path):
    labels = np.array([[0, 1, 255]], dtype=np.uint8)
    image = Image.fromarray(labels).convert("P")
    image.putpalette(list(reversed(range(256))) * 3)
    np.testing.assert_array_equal(read_labels(saved(tmp_path / "a.png", image)), labels)


def test_big_endian_and_32_bit_labels(tmp_path):
    for mode in ("I;16B", "I"):
        labels = read_labels(saved(tmp_path / "a.tiff", Image.new(mode, (2, 2), 846)))
        assert labels.dtype.isnative and (labels == 846).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F", "1"])
def test_labels_of_other_modes_are_refused(tmp_path, mode):
    path = saved(tmp_path / "colored.tiff", Image.new(mode, (2, 2)))
    with pytest.raises(ImageError, match=rf"colored.tiff.*single-channel map of class ids.*mode {mode};"):
        read_labels(path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 2, 1), int), r"\(2, 2, 1\)"),
        (np.zeros((2, 2)), "float64"),
        (np.zeros((0, 2), int), r"\(0, 2\)"),
        (np.array([[-1]]), r"-1\.\.-1"),
        (np.array([[65536]]), "65536"),
    ],
)
def test_what_no_label_file_can_hold_is_refused(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        write_labels(tmp_path / "a.png", labels)
    assert not list(tmp_path.iterdir())


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "new folder" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
        assert temporary.parent == path.parent and not path.exists()
    with pytest.raises(RuntimeError, match="stop"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_real_samples(sample_data):
    voc = sample_data / "voc"
    assert read_image(voc / "JPEGImages/2011_000003.jpg").shape == (338, 500, 3)
    assert np.unique(read_labels(voc / "SegmentationClass/2011_000003.png")).tolist() == [0, 5, 15, 255]
    segments = next((sample_data / "ade20k_full").rglob("*_seg.png"))
    with pytest.raises(ImageError, match=re.escape(segments.name)):
        read_labels(segments)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "I", "F"])
def test_masks_of_every_mode_are_inside_where_they_are_not_zero(tmp_path, mode):
    mask = np.arange(20).reshape(4, 5) % 3 == 0
    if mode == "1":
        image = Image.fromarray(mask)
    elif mode in ("I;16", "I", "F"):
        image = Image.fromarray(mask.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    else:
        image = Image.fromarray(mask.astype(np.uint8)).convert(mode)
    assert image.mode == mode
    read = read_mask(saved(tmp_path / ("m.tif" if mode in ("I", "F") else "m.png"), image))
    assert read.dtype == bool and np.array_equal(read, mask)


def test_what_is_transparent_in_a_mask_is_outside(tmp_path):
    pixels = np.full((2, 2, 4), 200, np.uint8)
    pixels[0, 0, 3] = 0
    assert read_mask(saved(tmp_path / "m.png", Image.fromarray(pixels))).tolist() == [[False, True], [True, True]]


def test_a_mask_is_turned_upright_and_a_faulty_one_is_named(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8))
    assert read_mask(saved(tmp_path / "m.png", image, exif=exif)).tolist() == [[False], [True], [True]]
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png"):
        read_mask(tmp_path / "text.png")

"""The pages of a TIFF: which ones there are, what they are called, and that each is read as it would be alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from escnet.data.images import ImageError, read_image, read_pages
from escnet.data.pages import Page, pages_of

SHAPES = [(4, 6), (9, 3), (2, 2)]


@pytest.fixture
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in SHAPES]


def write(path: Path, pictures: list[np.ndarray], kinds: tuple[int, ...] = (0, 0, 0), **options: object) -> Path:
    """A TIFF of several pages, of each of which the tag 254 says what kind it is."""
    with TiffImagePlugin.AppendingTiffWriter(str(path), new=True) as file:
        for picture, kind in zip(pictures, kinds, strict=True):
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            tags[254] = kind
            Image.fromarray(picture).save(file, format="TIFF", tiffinfo=tags, **options)
            file.newFrame()
    return path


def test_each_page_is_read_as_it_is_alone(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    path = write(tmp_path / "scan.tif", pictures)
    for read, picture in zip(read_pages(path), pictures, strict=True):
        np.testing.assert_array_equal(read, picture)
    np.testing.assert_array_equal(read_image(path), pictures[0])
    np.testing.assert_array_equal(read_image(pages_of(path)[2]), pictures[2])


def test_pages_of_other_depths_and_turned_ones(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    deep = pictures[1][..., 0].astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "mixed.tiff"
    with TiffImagePlugin.AppendingTiffWriter(str(path), new=True) as file:
        for picture, options in ((Image.fromarray(deep), {}), (Image.fromarray(pictures[0]), {"exif": exif})):
            picture.save(file, format="TIFF", **options)
            file.newFrame()
    first, second = read_pages(path)
    np.testing.assert_array_equal(first, np.repeat(pictures[1][..., :1], 3, axis=2))
    np.testing.assert_array_equal(second, np.rot90(pictures[0], -1))


def test_names_of_pages(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    path = write(tmp_path / "scan.TIF", pictures)
    pages = pages_of(path)
    assert pages == [Page(path, 1, 0), Page(path, 2, 1), Page(path, 3, 2)]
    assert [page.stem for page in pages if isinstance(page, Page)] == [
        "scan_page0001",
        "scan_page0002",
        "scan_page0003",
    ]
    assert str(pages[1]) == f"{path}#page=2" and pages[1].name == "scan.TIF#page=2" and pages[1].suffix == ".TIF"


def test_smaller_copies_and_masks_are_no_pages(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    alone = write(tmp_path / "cog.tif", pictures, kinds=(0, 1, 4))
    assert pages_of(alone) == [alone]
    two = write(tmp_path / "two.tif", pictures, kinds=(0, 1, 2))
    assert pages_of(two) == [Page(two, 1, 0), Page(two, 2, 2)]
    np.testing.assert_array_equal(list(read_pages(two))[1], pictures[2])


def test_pages_beyond_pillows_limit_are_listed(
    tmp_path: Path, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "scan.tif", pictures)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    assert len(pages_of(path)) == 3


def test_other_files_are_a_single_page(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    one = tmp_path / "one.tif"
    Image.fromarray(pictures[0]).save(one)
    film = tmp_path / "film.gif"
    frames = [Image.fromarray(picture[:2, :2]) for picture in pictures]
    frames[0].save(film, save_all=True, append_images=frames[1:])
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(b"II*\0 and no more")
    for path in (one, film, damaged, tmp_path / "missing.tif"):
        assert pages_of(path) == [path]
    with pytest.raises(ImageError, match=r"missing\.tif: does not exist"):
        list(read_pages(tmp_path / "missing.tif"))


def test_errors_name_the_page_and_its_size_counts(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    path = write(tmp_path / "scan.tif", pictures)
    pages = read_pages(path, max_pixels=24)
    assert next(pages).shape == (4, 6, 3)
    with pytest.raises(ImageError, match=r"scan\.tif#page=2: too large.*27 pixels, where 24"):
        next(pages)
    path.unlink()
    with pytest.raises(ImageError, match=r"scan\.tif: does not exist"):
        read_image(Page(path, 2, 1))

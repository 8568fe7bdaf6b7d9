"""Label maps of GeoTIFFs lie where the pictures do, as rasterio (GDAL) opens them."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from escnet.annotations.georeference import (
    Georeference,
    is_georeferenced,
    read_georeference,
    write_geotiff,
    write_placed_labels,
)
from escnet.data.images import read_labels

SYSTEMS = ["EPSG:32632", "EPSG:4326", "EPSG:3857", "EPSG:2056"]
NORTH_UP = Affine(0.1, 0, 691000.1, 0, -0.1, 5334000.7)
ROTATED = Affine(0.3, 0.1, 5.5, 0.2, -0.4, 47.25)
LABELS = np.random.default_rng(0).integers(0, 3, (5, 7)).astype(np.int32)


def geotiff(path: Path, transform: Affine = NORTH_UP, empty: np.ndarray | None = None, **profile: object) -> Path:
    pixels = np.random.default_rng(1).integers(1, 255, (3, 5, 7), np.uint8)
    if empty is not None:
        pixels[:, empty] = 0
    options = {"crs": "EPSG:32632", "nodata": None if empty is None else 0, **profile}
    with rasterio.open(
        path, "w", driver="GTiff", width=7, height=5, count=3, dtype="uint8", transform=transform, **options
    ) as file:
        file.write(pixels)
    return path


def placed(path: Path) -> Georeference:
    place = read_georeference(path)
    assert place is not None
    return place


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED])
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_label_map_lies_where_the_picture_does(system: str, transform: Affine, tmp_path: Path) -> None:
    source = geotiff(tmp_path / "field.tif", transform, crs=system)
    write_placed_labels(tmp_path / "labels.png", LABELS, 3, placed(source))
    write_geotiff(tmp_path / "labels.tif", LABELS, ["a", "b", "c"], placed(source))
    with rasterio.open(source) as theirs:
        for name in ("labels.png", "labels.tif"):
            with rasterio.open(tmp_path / name) as ours:
                assert ours.crs == theirs.crs and ours.transform == theirs.transform
                assert ours.nodata is None and ours.count == 1
                np.testing.assert_array_equal(ours.read(1), LABELS)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.png", 8), LABELS)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.tif", 8), LABELS)


def test_the_world_file_alone_says_the_transform(tmp_path: Path) -> None:
    write_placed_labels(tmp_path / "labels.png", LABELS, 3, placed(geotiff(tmp_path / "field.tif", ROTATED)))
    (tmp_path / "labels.png.aux.xml").unlink()
    with rasterio.open(tmp_path / "labels.png") as ours:
        assert ours.transform.almost_equals(ROTATED, 1e-9) and ours.crs is None
    by_hand = [0.3, 0.2, 0.1, -0.4, 5.5 + 0.2, 47.25 - 0.1]
    assert list(map(float, (tmp_path / "labels.pgw").read_text().split())) == pytest.approx(by_hand)


@pytest.mark.parametrize(("classes", "no_data", "mode"), [(3, 255, "L"), (256, 65535, "I;16"), (300, 65535, "I;16")])
def test_pixels_without_data_have_an_id_of_their_own(classes: int, no_data: int, mode: str, tmp_path: Path) -> None:
    empty = np.zeros((5, 7), bool)
    empty[1:3, 4:] = True
    place = placed(geotiff(tmp_path / "field.tif", empty=empty))
    labels = np.where(LABELS == 2, classes - 1, LABELS)
    write_placed_labels(tmp_path / "labels.png", labels, classes, place)
    write_geotiff(tmp_path / "labels.tif", labels, [f"class {i}" for i in range(classes)], place)
    for name in ("labels.png", "labels.tif"):
        with rasterio.open(tmp_path / name) as ours:
            assert ours.nodata == no_data
            np.testing.assert_array_equal(ours.dataset_mask() == 0, empty)
            np.testing.assert_array_equal(ours.read(1), np.where(empty, no_data, labels))
            if name == "labels.tif":
                assert ours.tags(1)[f"CLASS_{classes - 1}"] == f"class {classes - 1}"
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == mode


def test_pictures_that_do_not_say_where_they_lie(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "plain.tif")
    Image.new("RGB", (3, 2)).save(tmp_path / "photo.png")
    (tmp_path / "damaged.tif").write_bytes(b"II*\0 no more")
    for name in ("plain.tif", "photo.png", "damaged.tif", "missing.tif"):
        assert not is_georeferenced(tmp_path / name) and read_georeference(tmp_path / name) is None
    assert not caplog.records


def test_a_picture_beyond_pillows_limit_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = geotiff(tmp_path / "field.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert is_georeferenced(source) and placed(source).transform == NORTH_UP[:6]


def test_single_points_do_not_place_a_label_map(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = [rasterio.control.GroundControlPoint(row, 2 * row + 1, row + 0.5, row**2) for row in range(4)]
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        source = geotiff(tmp_path / "field.tif", Affine.identity(), gcps=points)
    with caplog.at_level(logging.WARNING):
        assert read_georeference(source) is None
    assert "tied down by single points" in caplog.text and "field.tif" in caplog.text


def test_a_turned_picture_does_not_place_its_label_map(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = geotiff(tmp_path / "field.tif")
    with Image.open(source) as image:
        tags, pixels = image.tag_v2, image.copy()
    tags[0x0112] = 6
    pixels.save(tmp_path / "turned.tif", tiffinfo=tags)
    assert is_georeferenced(tmp_path / "turned.tif") and read_georeference(tmp_path / "turned.tif") is None
    assert "turned by its orientation" in caplog.text


def test_without_rasterio_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = placed(geotiff(tmp_path / "field.tif"))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert read_georeference(tmp_path / "field.tif") is None
    (record,) = caplog.records
    assert "field.tif" in record.message and "pip install 'escnet[large]'" in record.message
    with pytest.raises(ImportError, match=r"pip install 'escnet\[large\]'"):
        write_geotiff(tmp_path / "labels.tif", LABELS, ["a", "b", "c"], place)

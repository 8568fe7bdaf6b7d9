"""`--format` of pictures in tiles: COCO from a label map that is read in bands, and the GeoTIFF that is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from escnet import Vocabulary
from escnet.annotations import FORMATS
from escnet.data.images import ImageError
from escnet.labelling import finished_pictures, formats
from escnet.labelling.engine import LabellingTask, label_pictures
from escnet.labelling.formats import write_formats
from escnet.labelling.large_pictures import LargeTask, label_large_pictures
from escnet.labelling.pictures import find_pictures, output_names
from escnet.labelling.tiles import Tiling
from escnet.predictor import Segmenter

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
WORDS = Vocabulary(["red", "green", "blue"], ["dark"])


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def write_picture(path: Path, size: tuple[int, int] = (90, 300), **options: Any) -> Path:
    fields = np.random.default_rng(size[0]).standard_normal((3, *size))
    pixels = (128 + 3000 * ndimage.gaussian_filter(fields, (0, 9, 9))).clip(1, 255).astype(np.uint8)
    shape = {"height": size[0], "width": size[1], "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as file:
        file.write(pixels)
    return path


def label(segmenter: Segmenter, output: Path, *paths: Path, tile: int | None = 64, **changes: Any) -> LabellingTask:
    pictures = find_pictures([str(path) for path in paths])
    origin = {"config": "c.yaml", "weights": None, "options": [], "value_range": None}
    task = LabellingTask(pictures, output_names(pictures.files), output, WORDS, origin)
    if tile is None:
        outcome = label_pictures(segmenter, task, lambda _: None)
    else:
        outcome = label_large_pictures(segmenter, LargeTask(task, Tiling(tile), **changes), lambda _: None)
    assert not outcome.failures
    return task


def labels_of(output: Path, name: str) -> np.ndarray:
    with rasterio.open(output / f"{name}_labels.tif") as file:
        return file.read(1)


@pytest.mark.parametrize("objects", [False, True])
def test_pycocotools_reads_them(
    colour_segmenter: Callable[..., Segmenter], tmp_path: Path, output: Path, objects: bool
) -> None:
    paths = [write_picture(tmp_path / f"{name}.tif", size) for name, size in (("a", (90, 300)), ("b", (270, 64)))]
    task = label(colour_segmenter(), output, *paths, label_png=True)
    (line,) = write_formats(("coco",), task, objects=objects)
    coco = COCO(str(output / "annotations.json"))
    assert f"{len(coco.anns)} masks in 2 images" in line
    for image in coco.imgs.values():
        labels = labels_of(output, Path(image["file_name"]).stem)
        report = json.loads((output / f"{Path(image['file_name']).stem}.json").read_text())
        scores = {entry["id"]: entry["mean_score"] for entry in report["classes"]}
        assert (image["height"], image["width"]) == labels.shape
        found = coco.imgToAnns[image["id"]]
        drawn = np.full(labels.shape, 3)
        for entry in found:
            mask, class_id = coco.annToMask(entry).astype(bool), entry["category_id"] - 1
            assert (drawn[mask] == 3).all() and entry["score"] == scores[class_id]
            drawn[mask] = class_id
        # All of it but the background.
        np.testing.assert_array_equal(drawn, labels)
        parts = [ndimage.label(labels == class_id)[1] for class_id in range(3)]
        assert len(found) == (sum(parts) if objects else sum(count > 0 for count in parts)) > 0


@pytest.mark.filterwarnings("ignore:OpenCV", "ignore::DeprecationWarning")
def test_supervision_reads_them(colour_segmenter: Callable[..., Segmenter], tmp_path: Path, output: Path) -> None:
    supervision = pytest.importorskip("supervision")
    (tmp_path / "in").mkdir()
    write_formats(("coco",), label(colour_segmenter(), output, write_picture(tmp_path / "in/a.tif")), background=True)
    file = str(output / "annotations.json")
    data = supervision.DetectionDataset.from_coco(str(tmp_path / "in"), file, force_masks=True)
    _, _, detections = data[0]
    assert data.classes == list(WORDS.class_names)
    for mask, class_id in zip(detections.mask, detections.class_id, strict=True):
        np.testing.assert_array_equal(mask, labels_of(output, "a") == class_id)


def test_the_label_map_is_never_held_whole(
    colour_segmenter: Callable[..., Segmenter], tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, widths = label(colour_segmenter(), output, write_picture(tmp_path / "a.tif", (20, 700))), []
    read = finished_pictures.read_columns

    def watched(path: Path) -> Any:
        for band in read(path):
            widths.append(band.shape[1])
            yield band

    monkeypatch.setattr(finished_pictures, "read_columns", watched)
    monkeypatch.setattr(finished_pictures, "read_labels", None)
    monkeypatch.setattr(formats, "read_labels", None)
    write_formats(("coco", "geotiff"), task)
    assert widths == [256, 256, 188]


def test_beside_pictures_that_are_not_cut(
    colour_segmenter: Callable[..., Segmenter], tmp_path: Path, output: Path
) -> None:
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 8, 0, -0.5, 50)}
    label(colour_segmenter(), output, write_picture(tmp_path / "large.tif", **place))
    written = (output / "large_labels.tif").read_bytes()
    Image.new("RGB", (30, 20), (9, 200, 9)).save(tmp_path / "photo.png")
    task = label(colour_segmenter(), output, tmp_path / "photo.png", tile=None)
    coco, yolo, label_studio, geotiff = write_formats(FORMATS, task)
    assert "in 2 images" in coco
    assert "in 1 images; left out, as segmented in tiles: 1" in yolo
    assert "1 tasks; left out, as segmented in tiles: 1" in label_studio
    assert "1 label maps; 1 pictures do not say where they lie" in geotiff
    assert (output / "large_labels.tif").read_bytes() == written
    assert [file.name for file in (output / "labels").iterdir()] == ["photo.txt"]


def test_more_pixels_than_the_format_has_are_told(
    colour_segmenter: Callable[..., Segmenter], tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = label(
        colour_segmenter(), output, write_picture(tmp_path / "a.tif"), write_picture(tmp_path / "b.tif", (9, 9))
    )
    monkeypatch.setattr(formats, "MOST_PIXELS", 100)
    (line,) = write_formats(("coco",), task)
    assert "in 1 images; left out, as the format has no more than 100 pixels: 1" in line
    assert [image["file_name"] for image in COCO(str(output / "annotations.json")).imgs.values()] == ["b.tif"]


def test_a_damaged_label_map_is_told_and_leaves_the_file_that_is_there(
    colour_segmenter: Callable[..., Segmenter], tmp_path: Path, output: Path
) -> None:
    task = label(colour_segmenter(), output, write_picture(tmp_path / "a.tif"))
    write_formats(("coco",), task)
    before, labels = (output / "annotations.json").read_bytes(), (output / "a_labels.tif").read_bytes()
    (output / "a_labels.tif").write_bytes(labels[: len(labels) // 2])
    with pytest.raises(ImageError, match=r"a_labels\.tif: "):
        write_formats(("coco",), task)
    assert (output / "annotations.json").read_bytes() == before
    assert not list(output.glob(".*"))

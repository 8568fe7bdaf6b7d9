"""What `--format` writes: as other tools read it, and the same however often a labelling was stopped."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from escnet import Vocabulary
from escnet.annotations import FORMATS
from escnet.data.images import read_image
from escnet.labelling.engine import LabellingTask, label_pictures
from escnet.labelling.formats import check_formats, write_formats
from escnet.labelling.pictures import LabellingError, find_pictures, output_names
from escnet.safe_files import DiskFullError
from escnet.segmentation_result import SegmentationResult

WORDS = Vocabulary(["cat", "dog", "Größe: 3"], ["sky"])
ORIGIN = {"config": "c.yaml", "weights": None, "options": [], "value_range": [0.0, 255.0]}
SOURCES = ("annotations.json", "data.yaml", "label_studio.json")


def segment(path: Any, vocabulary: Vocabulary = WORDS, **_: Any) -> SegmentationResult:
    """Blobs, other ones for each picture."""
    pixels = read_image(path)
    rng = np.random.default_rng(int(pixels.sum()))
    fields = ndimage.gaussian_filter(rng.standard_normal((vocabulary.num_classes, *pixels.shape[:2])), (0, 2, 2))
    labels = fields.argmax(axis=0).astype(np.int32)
    scores = rng.uniform(0.3, 1, labels.shape).astype(np.float32)
    return SegmentationResult(labels, scores, pixels, vocabulary)


def task_of(folder: Path, output: Path, **changes: Any) -> LabellingTask:
    output.mkdir(exist_ok=True)
    pictures = find_pictures([str(folder)], recursive=True)
    task = LabellingTask(pictures, output_names(pictures.files), output, WORDS, ORIGIN)
    return replace(task, **changes)


def label(task: LabellingTask, formats: tuple[str, ...] = FORMATS, segmenter: Any = segment) -> list[str]:
    check_formats(formats, task.output, task.names, task.overwrite)
    label_pictures(segmenter, task, lambda _: None)
    return write_formats(formats, task)


def written(output: Path) -> dict[str, bytes]:
    """The files of the formats."""
    files = [output / name for name in SOURCES] + sorted((output / "labels").glob("*"))
    return {file.name: file.read_bytes() for file in files if file.is_file()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.jpg", "more/c d.png", "more/e.png")):
        Image.new("RGB", (40 + number, 30), (number, 9, 9)).save(folder / name)
    return folder


def test_pycocotools_reads_the_folder(photos: Path, tmp_path: Path) -> None:
    task = task_of(photos, tmp_path / "out")
    lines = label(task)
    coco = COCO(str(tmp_path / "out" / "annotations.json"))
    assert [image["file_name"] for image in coco.imgs.values()] == ["a.jpg", "b.png", "more/c d.png", "more/e.png"]
    assert {entry["id"]: entry["name"] for entry in coco.cats.values()} == dict(enumerate(WORDS.names, start=1))
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    assert f"{len(coco.anns)} masks in 4 images" in lines[0]
    for image in coco.imgs.values():
        result = segment(photos / image["file_name"])
        theirs = result.to_coco(image["file_name"], image["id"])
        assert image == theirs["images"][0]
        found = coco.imgToAnns[image["id"]]
        assert len(found) == len(theirs["annotations"]) > 0
        for ours, expected in zip(found, theirs["annotations"], strict=True):
            np.testing.assert_array_equal(coco.annToMask(ours), result.labels == ours["category_id"] - 1)
            assert ours["score"] == pytest.approx(expected["score"], rel=1e-5)
            assert {**ours, "id": 0, "score": 0} == {**expected, "id": 0, "score": 0}


@pytest.mark.filterwarnings("ignore:OpenCV", "ignore::DeprecationWarning")
def test_supervision_reads_coco_and_yolo(photos: Path, tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    output = tmp_path / "out"
    label(task_of(photos, output))
    coco = supervision.DetectionDataset.from_coco(str(photos), str(output / "annotations.json"), force_masks=True)
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in photos.rglob("*.*g"):
        os.link(file, flat / file.name)
    yolo = supervision.DetectionDataset.from_yolo(
        str(flat), str(output / "labels"), str(output / "data.yaml"), force_masks=True
    )
    assert coco.classes == yolo.classes == list(WORDS.names)
    assert len(coco) == len(yolo) == 4
    for path, image, detections in coco:
        labels = segment(path).labels
        assert image.shape[:2] == labels.shape
        assert detections.class_id.tolist() == [i for i in np.unique(labels).tolist() if i < 3]
        for mask, class_id in zip(detections.mask, detections.class_id, strict=True):
            np.testing.assert_array_equal(mask, labels == class_id)
    for path, _, detections in yolo:
        labels = segment(path).labels
        for class_id in range(3):
            mask, parts = labels == class_id, detections.mask[detections.class_id == class_id]
            assert len(parts) == ndimage.label(mask)[1]
            if len(parts):
                # It fills the pixels that an outline runs along, too, on the right and below.
                assert (parts.any(axis=0) >= mask).all()
                assert not (parts.any(axis=0) & ~ndimage.binary_dilation(mask, np.ones((3, 3)))).any()


def test_each_file_says_what_the_result_says(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    label(task_of(photos, output))
    names = yaml.safe_load((output / "data.yaml").read_text(encoding="utf-8"))["names"]
    assert names == dict(enumerate(WORDS.names))
    tasks = json.loads((output / "label_studio.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        f"/data/local-files/?d={name}" for name in ("a.jpg", "b.png", "more/c%20d.png", "more/e.png")]  # fmt: skip
    for name, task in zip(("a.jpg", "b.png", "more/c d.png", "more/e.png"), tasks, strict=True):
        result = segment(photos / name)
        assert (output / "labels" / f"{Path(name).stem}.txt").read_text() == result.to_yolo()
        ours, theirs = task["predictions"][0]["result"], result.to_label_studio()["predictions"][0]["result"]
        assert [region["value"] for region in ours] == [region["value"] for region in theirs]
        means = {entry["name"]: entry["mean_score"] for entry in result.summary()["classes"]}
        for region in ours:
            assert region["score"] == pytest.approx(means[region["value"]["polygonlabels"][0]])


class Stops:
    """A segmenter that is stopped at its n-th picture."""

    def __init__(self, n: int, error: type[BaseException]) -> None:
        self.left, self.error = n, error

    def __call__(self, path: Any, vocabulary: Vocabulary, **options: Any) -> SegmentationResult:
        self.left -= 1
        if self.left < 0:
            raise self.error("stopped")
        return segment(path, vocabulary)


@pytest.mark.parametrize("error", [KeyboardInterrupt, DiskFullError])
def test_a_stopped_call_that_goes_on_ends_in_the_same_files(
    error: type[BaseException], photos: Path, tmp_path: Path
) -> None:
    label(task_of(photos, tmp_path / "once"))
    expected = written(tmp_path / "once")
    assert len(expected) == 7
    task = task_of(photos, tmp_path / "twice")
    # Two pictures were segmented without any format before.
    with pytest.raises(error):
        label(task, (), Stops(2, error))
    with pytest.raises(error):
        label(task, FORMATS, Stops(1, error))
    assert not written(tmp_path / "twice")
    label(task)
    assert written(tmp_path / "twice") == expected
    label(task)
    assert written(tmp_path / "twice") == expected


def test_calls_into_one_folder_add_up(photos: Path, tmp_path: Path) -> None:
    label(task_of(photos, tmp_path / "once"))
    for inputs in ("more", "."):
        pictures = find_pictures([str(photos / inputs)])
        label(replace(task_of(photos, tmp_path / "parts"), pictures=pictures, names=output_names(pictures.files)))
    assert written(tmp_path / "parts") == written(tmp_path / "once")


def test_one_that_fails_is_left_out_until_it_is_repaired(photos: Path, tmp_path: Path) -> None:
    good = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(b"damaged")
    task = task_of(photos, tmp_path / "out")
    label(task)
    assert len(json.loads((tmp_path / "out" / "annotations.json").read_text())["images"]) == 3
    (photos / "b.png").write_bytes(good)
    label(task)
    assert len(json.loads((tmp_path / "out" / "annotations.json").read_text())["images"]) == 4


def test_results_of_other_words_are_left_out(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    label(task_of(photos, output))
    sea = Vocabulary(["sea"])
    pictures = find_pictures([str(photos / "b.png")])
    task = task_of(photos, output, pictures=pictures, names=["b"], vocabulary=sea, overwrite=True)
    lines = label(task)
    assert "left out" in lines[-1] and lines[-1].endswith(": 3")
    assert [entry["name"] for entry in json.loads((output / "annotations.json").read_text())["categories"]] == ["sea"]
    # Their classes would be others by the new data.yaml.
    assert [file.name for file in (output / "labels").iterdir()] == ["b.txt"]


def test_files_of_others_are_not_replaced(photos: Path, tmp_path: Path) -> None:
    task = task_of(photos, tmp_path / "out")
    for kind, name in (("coco", SOURCES[0]), ("yolo", SOURCES[1]), ("label_studio", SOURCES[2])):
        for text in ('{"images": []}', "not JSON", '[{"predictions": [{"model_version": "theirs"}]}]'):
            (task.output / name).write_text(text)
            with pytest.raises(LabellingError, match=f"{name}: is there"):
                check_formats([kind], task.output, task.names, False)
            check_formats([kind], task.output, task.names, True)
        (task.output / name).unlink()
    (task.output / "labels").mkdir()
    (task.output / "labels" / "a.txt").write_text("0 0.5 0.5 1 1\n")
    with pytest.raises(LabellingError, match=r"a\.txt: is there"):
        check_formats(["yolo"], task.output, task.names, False)
    for kind, name in (("coco", "Annotations"), ("label_studio", "label_studio")):
        with pytest.raises(LabellingError, match="rename the picture"):
            check_formats([kind], task.output, [name], True)


def test_pages_and_places(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    (tmp_path / "in").mkdir()
    pages = [Image.new("RGB", (20 + number, 15)) for number in range(2)]
    pages[0].save(tmp_path / "in" / "scan.tif", save_all=True, append_images=pages[1:])
    place = {"crs": "EPSG:4326", "transform": rasterio.Affine(0.5, 0, 8, 0, -0.5, 50)}
    with rasterio.open(
        tmp_path / "in" / "field.tif", "w", driver="GTiff", width=21, height=14, count=3, dtype="uint8", **place
    ) as file:
        file.write(np.full((3, 14, 21), 40, np.uint8))
    output = tmp_path / "out"
    lines = label(task_of(tmp_path / "in", output))
    assert "1 label maps; 2 pictures do not say where they lie" in lines[FORMATS.index("geotiff")]
    with rasterio.open(output / "field_labels.tif") as labels:
        assert labels.crs == place["crs"] and labels.transform == place["transform"]
        np.testing.assert_array_equal(labels.read(1), segment(tmp_path / "in" / "field.tif").labels)
    images = json.loads((output / "annotations.json").read_text())["images"]
    assert [(image["file_name"], image.get("page")) for image in images] == [
        ("field.tif", None), ("scan.tif", 1), ("scan.tif", 2)]  # fmt: skip
    tasks = json.loads((output / "label_studio.json").read_text())
    assert [task["data"].get("page") for task in tasks] == [None, 1, 2]
    assert {file.stem for file in (output / "labels").iterdir()} == {"field", "scan_page0001", "scan_page0002"}


def test_parts_and_background_if_they_are_asked_for(photos: Path, tmp_path: Path) -> None:
    task = task_of(photos, tmp_path / "out")
    label(task)
    write_formats(FORMATS, task, objects=True, background=True)
    output = tmp_path / "out"
    coco = COCO(str(output / "annotations.json"))
    assert [entry["name"] for entry in coco.cats.values()] == list(WORDS.class_names)
    tasks = {entry["data"]["image"]: entry for entry in json.loads((output / "label_studio.json").read_text())}
    for image in coco.imgs.values():
        result = segment(photos / image["file_name"])
        theirs = result.to_coco(image["file_name"], image["id"], objects=True, background=True)["annotations"]
        found = coco.imgToAnns[image["id"]]
        assert [entry["segmentation"] for entry in found] == [entry["segmentation"] for entry in theirs]
        assert {entry["category_id"] for entry in found} == {1, 2, 3, 4}
        assert (output / "labels" / f"{Path(image['file_name']).stem}.txt").read_text() == result.to_yolo(True)
        regions = tasks[f"/data/local-files/?d={quote(image['file_name'])}"]["predictions"][0]["result"]
        assert len(regions) == len(found)
    assert yaml.safe_load((output / "data.yaml").read_text(encoding="utf-8"))["names"][3] == "background"


def test_without_rasterio_geotiff_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(LabellingError, match=r"pip install 'escnet\[large\]'"):
        check_formats(["geotiff"], tmp_path, [], False)

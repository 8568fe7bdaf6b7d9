"""`--format` of films: the frames as pictures, and annotations of them that other tools read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from escnet import Vocabulary
from escnet.labelling.engine import LabellingTask, label_pictures
from escnet.labelling.film_frames import check_frames
from escnet.labelling.formats import check_formats, write_formats
from escnet.labelling.pictures import LabellingError, find_pictures, output_names
from escnet.labelling.video import VideoTask, label_videos
from escnet.predictor import Segmenter

WORDS = Vocabulary(["red", "green", "blue"], ["dark"])
KINDS = ("coco", "yolo", "label_studio")
SIZE = (48, 64)


def write_film(path: Path, count: int = 4) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(count):
            pixels = np.full((*SIZE, 3), 40, np.uint8)
            pixels[4:24, 8 * index : 20 + 8 * index] = (220, 60, 60)
            pixels[30:, :32] = (60, 60, 220)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "clip.mp4")


class Labelled:
    """An output folder, and the calls that write into it."""

    def __init__(self, segmenter: Segmenter, output: Path) -> None:
        self.segmenter, self.output = segmenter, output
        output.mkdir(exist_ok=True)

    def task(self, *paths: Path, **changes: Any) -> LabellingTask:
        pictures = find_pictures([str(path) for path in paths])
        origin = {"config": "c.yaml", "weights": None, "options": [], "value_range": None}
        return LabellingTask(pictures, output_names(pictures.files), self.output, WORDS, origin, **changes)

    def films(self, *paths: Path, every: int = 1, formats: tuple[str, ...] = KINDS, **changes: Any) -> list[str]:
        task = self.task(*paths, **changes)
        check_formats(formats, self.output, task.names, task.overwrite, task.names)
        assert not label_videos(self.segmenter, VideoTask(task, every), lambda _: None).failures
        return write_formats(formats, task)

    def labels(self, index: int, name: str = "clip") -> np.ndarray:
        return np.asarray(Image.open(self.output / f"{name}_labels/{index:06d}.png"))

    def files(self) -> set[str]:
        folders = (self.output / "images", self.output / "labels")
        return {p.relative_to(self.output).as_posix() for folder in folders for p in folder.rglob("*.*g")} | {
            p.relative_to(self.output).as_posix() for folder in folders for p in folder.rglob("*.txt")
        }


@pytest.fixture
def labelled(colour_segmenter: Callable[..., Segmenter], tmp_path: Path) -> Labelled:
    return Labelled(colour_segmenter(), tmp_path / "out")


def test_pycocotools_reads_the_frames(labelled: Labelled, film: Path) -> None:
    lines = labelled.films(film, every=2)
    coco = COCO(str(labelled.output / "annotations.json"))
    images = list(coco.imgs.values())
    assert [image["file_name"] for image in images] == ["clip/000000.jpg", "clip/000002.jpg"]
    assert [(image["film"], image["frame"]) for image in images] == [("clip.mp4", 0), ("clip.mp4", 2)]
    assert images[1]["time"] == pytest.approx(0.4)
    assert "2 images" in lines[0]
    report = json.loads((labelled.output / "clip.json").read_text())
    for image, frame in zip(images, report["frames"], strict=True):
        picture = Image.open(labelled.output / "images" / image["file_name"])
        assert picture.size == (image["width"], image["height"]) == SIZE[::-1]
        labels, found = labelled.labels(image["frame"]), coco.imgToAnns[image["id"]]
        assert [entry["category_id"] - 1 for entry in found] == [i for i in np.unique(labels).tolist() if i < 3]
        for entry in found:
            np.testing.assert_array_equal(coco.annToMask(entry), labels == entry["category_id"] - 1)
            # Of the frame, not of the film.
            name = WORDS.names[entry["category_id"] - 1]
            assert entry["score"] == frame["mean_scores"][name]


@pytest.mark.filterwarnings("ignore:OpenCV", "ignore::DeprecationWarning")
def test_supervision_reads_the_folder_as_it_is(labelled: Labelled, film: Path) -> None:
    supervision = pytest.importorskip("supervision")
    labelled.films(film)
    images, output = labelled.output / "images", labelled.output
    data = supervision.DetectionDataset.from_coco(str(images), str(output / "annotations.json"), force_masks=True)
    assert len(data) == 4
    for path, image, detections in data:
        labels = labelled.labels(int(Path(path).stem))
        assert image.shape[:2] == SIZE
        for mask, class_id in zip(detections.mask, detections.class_id, strict=True):
            np.testing.assert_array_equal(mask, labels == class_id)
    yolo = supervision.DetectionDataset.from_yolo(
        str(images / "clip"), str(output / "labels/clip"), str(output / "data.yaml"), force_masks=True
    )
    assert len(yolo) == 4 and yolo.classes == list(WORDS.names)
    for path, _, detections in yolo:
        labels = labelled.labels(int(Path(path).stem))
        for class_id in set(detections.class_id.tolist()):
            assert (detections.mask[detections.class_id == class_id].any(axis=0) >= (labels == class_id)).all()


def test_label_studio_finds_the_frames(labelled: Labelled, film: Path) -> None:
    labelled.films(film)
    tasks = json.loads((labelled.output / "label_studio.json").read_text())
    addresses = [task["data"]["image"].removeprefix("/data/local-files/?d=") for task in tasks]
    assert addresses == [f"clip/{index:06d}.jpg" for index in range(4)]
    assert all((labelled.output / "images" / address).is_file() for address in addresses)
    assert tasks[3]["data"]["frame"] == 3 and tasks[0]["predictions"][0]["result"]


def test_a_film_that_was_segmented_before_is_not_segmented_again(labelled: Labelled, film: Path) -> None:
    labelled.films(film, formats=())
    passes = len(labelled.segmenter.model.passes)
    assert not (labelled.output / "images").exists()
    labelled.films(film)
    assert len(labelled.segmenter.model.passes) == passes
    frame = labelled.output / "images/clip/000000.jpg"
    before = frame.stat().st_mtime_ns
    # And frames that are there are not decoded again.
    labelled.films(film, formats=("coco",))
    assert frame.stat().st_mtime_ns == before
    assert not list(labelled.output.glob(".labelling-*"))


def test_other_frames_take_the_place_of_those_before(labelled: Labelled, film: Path) -> None:
    labelled.films(film)
    assert len(labelled.files()) == 8
    labelled.films(film, every=3, overwrite=True)
    ends = ("images/clip/{}.jpg", "labels/clip/{}.txt")
    assert labelled.files() == {end.format(number) for end in ends for number in ("000000", "000003")}


def test_films_and_pictures_of_one_folder(labelled: Labelled, film: Path, tmp_path: Path) -> None:
    other = write_film(tmp_path / "other.mp4", 1)
    labelled.films(film, other, every=4)
    assert "labels/other/000000.txt" in labelled.files()
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(tmp_path / "in/a.png")
    task = labelled.task(tmp_path / "in/a.png")
    label_pictures(labelled.segmenter, task, lambda _: None)
    lines = write_formats((*KINDS, "geotiff"), task)
    assert "0 label maps; 1 pictures do not say where they lie" in lines[3]
    coco = json.loads((labelled.output / "annotations.json").read_text())
    names = [image["file_name"] for image in coco["images"]]
    # Below the folder that all have in common.
    assert names == ["in/a.png", "out/images/clip/000000.jpg", "out/images/other/000000.jpg"]
    assert yaml.safe_load((labelled.output / "data.yaml").read_text())["train"] == "images"


def test_a_film_that_is_gone_is_left_out_and_told(labelled: Labelled, film: Path, tmp_path: Path) -> None:
    gone = write_film(tmp_path / "gone.mp4", 1)
    labelled.films(gone, formats=())
    gone.unlink()
    lines = labelled.films(film)
    assert "4 images" in lines[0] and "gone.mp4: does not exist" in lines[-1]
    # One that has fewer frames than its report says.
    write_film(film, 2)
    (labelled.output / "images/clip/.frames.json").write_text("{}")
    lines = labelled.films(film)
    assert "has no frame 2 any more" in lines[3]
    assert (labelled.output / "images/clip/000003.jpg").is_file()


def test_folders_of_others_are_left_alone(labelled: Labelled, film: Path, tmp_path: Path) -> None:
    theirs = labelled.output / "images/clip"
    theirs.mkdir(parents=True)
    (theirs / "mine.jpg").write_bytes(b"")
    for overwrite in (False, True):
        with pytest.raises(LabellingError, match="was not written by --format"):
            labelled.films(film, overwrite=overwrite)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/images").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(LabellingError, match="is a link"):
        check_frames(tmp_path / "linked", "clip")
    labelled.films(film, formats=())
    lines = write_formats(("coco",), labelled.task(film))
    assert "0 images" in lines[0] and "was not written by --format" in lines[1]
    assert (theirs / "mine.jpg").is_file()

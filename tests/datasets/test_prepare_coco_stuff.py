"""datasets/prepare_coco_stuff.py: all classes, other files beside, other archives. See also test_preparation.py."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from escnet.data.images import read_labels, write_labels
from escnet.data.registration import dataset_records

SCRIPT = "datasets/prepare_coco_stuff.py"
# COCO's category ids that have no segmentation, minus 1: street sign, hat, shoe, eye glasses, plate, mirror, window,
# desk, door, blender, hair brush.
UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """COCO-Stuff as published, with one image per split; its label map has every id."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    ids = [raw for raw in range(182) if raw not in UNUSED] + [255]
    for split in ("train2017", "val2017"):
        (tmp_path / "coco-stuff/images" / split).mkdir(parents=True)
        Image.new("RGB", (4, 43)).save(tmp_path / f"coco-stuff/images/{split}/1.jpg")
        write_labels(tmp_path / f"coco-stuff/annotations/{split}/1.png", np.array(ids).reshape(43, 4))
    return tmp_path / "coco-stuff"


def test_every_id(root, run):
    code, out = run()
    assert code == 0 and "171 of 171 classes occur" in out
    for dataset in ("coco_stuff_train", "coco_stuff_val"):
        (record,) = dataset_records(dataset)
        labels = read_labels(record["sem_seg_file_name"])
        np.testing.assert_array_equal(labels.ravel(), [*range(171), 255])


def test_palette_files_are_read_by_their_indices(root, run):
    path = root / "annotations/val2017/1.png"
    image = Image.fromarray(read_labels(path)).convert("P")
    image.putpalette(list(reversed(range(256))) * 3)
    image.save(path)
    assert run("--splits", "val2017")[0] == 0
    assert read_labels(root / "annotations_detectron2/val2017/1.png").ravel().tolist() == [*range(171), 255]


def test_label_maps_of_mmsegmentation_are_left_alone(root, run):
    write_labels(root / "annotations/val2017/1_labelTrainIds.png", np.zeros((43, 4), int))
    assert run("--splits", "val2017")[0] == 0
    assert sorted(path.name for path in (root / "annotations_detectron2/val2017").glob("*.png")) == ["1.png"]
    (root / "annotations/val2017/1.png").unlink()
    assert "val2017: no label files found" in run("--splits", "val2017")[1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((43, 4), 183), "1.png: unknown ids 183; .*stuffthingmaps_trainval2017.zip .*pixelmaps"),
        (np.full((43, 4), 182), "1.png: unknown ids 182; "),
        (np.full((43, 4), 11), "1.png: unknown ids 11; expected the ids 0..181 except 11 unused ones"),
        (np.full((43, 4), 300), r"1.png: has 16 bits \(mode I;16\) where 8-bit ids are expected"),
        (np.zeros((4, 43), int), r"1.png: 4x43 pixels \(height x width\), but its photograph .*1.jpg has 43x4"),
    ],
)
def test_faulty_label_maps(root, run, labels, message):
    write_labels(root / "annotations/val2017/1.png", labels)
    code, err = run()
    assert re.search(message, err), err
    assert code == 1 and not (root / "annotations_detectron2").exists()


def test_colours_and_damaged_files(root, run):
    Image.new("RGB", (4, 43)).save(root / "annotations/val2017/1.png")
    assert "1.png: has colours (mode RGB) where 8-bit ids" in run()[1]
    (root / "annotations/val2017/1.png").write_bytes(b"none")
    assert "1.png: cannot be read as an image" in run()[1]
    write_labels(root / "annotations/val2017/1.png", np.zeros((43, 4), int))
    (root / "images/val2017/1.jpg").write_bytes(b"none")
    assert "1.jpg: cannot be read as an image" in run()[1]


def test_the_archive_of_pixelmaps(root, run):
    (root / "annotations/val2017").rename(root / "annotations/stuff_val2017_pixelmaps")
    code, err = run()
    assert code == 1
    assert "stuff_val2017_pixelmaps: comes from stuff_trainval2017.zip" in err and "needed is stuffthingmaps" in err

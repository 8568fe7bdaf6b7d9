"""datasets/prepare_voc.py: both label sets pixel by pixel, lists, converted masks, real samples."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from escnet.data.images import read_labels, write_labels
from escnet.data.registration import dataset_records

SCRIPT = "datasets/prepare_voc.py"
RAW = np.array([[0, 1, 20], [255, 5, 0]], dtype=np.uint8)
PAS_20 = np.array([[255, 0, 19], [255, 4, 255]])
PAS_20B = np.array([[20, 0, 19], [255, 4, 20]])


def write_mask(path, ids):
    image = Image.fromarray(ids).convert("P")
    image.putpalette(np.random.default_rng(0).permutation(768).astype(np.uint8).tolist())
    image.save(path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """VOC 2012 as published: images a (train), b (val), and c in neither, without a mask."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (3, 2)).save(root / f"JPEGImages/{name}.jpg")
    for name, split in (("a", "train"), ("b", "val")):
        write_mask(root / f"SegmentationClass/{name}.png", RAW)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(f"{name}\n")
    return root


def test_every_pixel(root, run):
    code, out = run()
    assert code == 0 and "3 of 20 classes occur" in out and "4 of 21 classes occur" in out and "background" in out
    for split, name in (("train", "a"), ("val", "b")):
        for dataset, expected in ((f"voc_20_{split}", PAS_20), (f"voc_20b_{split}", PAS_20B)):
            (record,) = dataset_records(dataset)
            assert record["image_id"] == name
            np.testing.assert_array_equal(read_labels(record["sem_seg_file_name"]), expected)


def test_raw_ids_in_grey_are_as_good_as_a_palette(root, run):
    write_labels(root / "SegmentationClass/b.png", RAW)
    assert run("--splits", "val")[0] == 0
    np.testing.assert_array_equal(read_labels(root / "annotations_detectron2/val/b.png"), PAS_20)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("colours", r"b.png: has colours \(mode RGB\) .*palette PNG.*not one that a tool has converted"),
        ("unknown", "b.png: unknown ids 21; expected 0..20 and 255"),
        ("16 bits", "b.png: has 16 bits"),
        ("size", "b.png: 2x2 pixels .*b.jpg has 2x3"),
        ("no mask", "of 1 images, 1 without labels: b; expected .*VOCtrainval_11-May-2012.tar"),
        ("no photograph", "1 without a photograph: b"),
        ("no list", "val.txt: is missing or empty"),
        ("no photographs", "no images found"),
    ],
)
def test_faulty_trees(root, run, fault, message):
    mask = root / "SegmentationClass/b.png"
    if fault == "colours":
        Image.open(mask).convert("RGB").save(mask)
    elif fault == "unknown":
        write_mask(mask, np.full((2, 3), 21, dtype=np.uint8))
    elif fault == "16 bits":
        write_labels(mask, np.ones((2, 3), int), bits=16)
    elif fault == "size":
        write_mask(mask, RAW[:, :2])
    elif fault == "no mask":
        mask.unlink()
    elif fault == "no photograph":
        (root / "JPEGImages/b.jpg").unlink()
    elif fault == "no list":
        (root / "ImageSets/Segmentation/val.txt").write_text("\n")
    elif fault == "no photographs":
        shutil.rmtree(root / "JPEGImages")
    code, err = run()
    assert code == 1 and re.search(message, err), err
    assert not (root / "annotations_detectron2").exists() and not (root / "annotations_detectron2_bg").exists()


def test_real_samples(sample_data, root, run):
    samples = sample_data / "voc"
    for folder in ("JPEGImages", "SegmentationClass"):
        shutil.copytree(samples / folder, root / folder, dirs_exist_ok=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("2011_000003\n2011_000006\n")
    assert run("--splits", "val")[0] == 0
    for dataset, background in (("voc_20_val", 255), ("voc_20b_val", 20)):
        records = dataset_records(dataset)
        assert [record["image_id"] for record in records] == ["2011_000003", "2011_000006"]
        for record in records:
            with Image.open(samples / f"SegmentationClass/{record['image_id']}.png") as image:
                raw = np.array(image).astype(int)
            expected = np.where(raw == 255, 255, np.where(raw == 0, background, raw - 1))
            np.testing.assert_array_equal(read_labels(record["sem_seg_file_name"]), expected)

"""datasets/prepare_ade20k_150.py: ids minus 1, real samples, the full ADE20K mistaken for it."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from escnet.data.images import read_labels, write_labels
from escnet.data.registration import dataset_records
from escnet.safe_files import DiskFullError

SCRIPT = "datasets/prepare_ade20k_150.py"
RAW = np.array([[0, 1, 2], [149, 150, 0]])
TRAIN_IDS = np.array([[255, 0, 1], [148, 149, 255]])


@pytest.fixture
def root(tmp_path, monkeypatch):
    """ADEChallengeData2016 as published, with one image per split."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "ADEChallengeData2016"
    for split, name in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        (root / "images" / split).mkdir(parents=True)
        Image.new("RGB", (3, 2)).save(root / f"images/{split}/{name}.jpg")
        write_labels(root / f"annotations/{split}/{name}.png", RAW)
    return root


def test_every_pixel(root, run):
    code, out = run()
    assert code == 0 and "4 of 150 classes occur, 146 do not; 33.33% of the pixels are ignored" in out
    for dataset in ("ade20k_150_train", "ade20k_150_val"):
        (record,) = dataset_records(dataset)
        np.testing.assert_array_equal(read_labels(record["sem_seg_file_name"]), TRAIN_IDS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([[0, 151, 255], [1, 1, 1]]), "ADE_val_1.png: unknown ids 151, 255; expected the ids 0..150"),
        (np.full((2, 3), 300), "ADE_val_1.png: has 16 bits"),
        (np.ones((3, 3), int), "ADE_val_1.png: 3x3 pixels .*ADE_val_1.jpg has 2x3"),
    ],
)
def test_faulty_label_maps(root, run, labels, message):
    write_labels(root / "annotations/validation/ADE_val_1.png", labels)
    code, err = run()
    assert code == 1 and re.search(message, err), err
    assert not (root / "annotations_detectron2").exists()


def test_missing_files(root, run):
    (root / "annotations/validation/ADE_val_1.png").rename(root / "annotations/validation/ADE_val_2.png")
    assert "1 without a photograph: ADE_val_2 and 1 without labels: ADE_val_1" in run()[1]
    shutil.rmtree(root / "annotations/training")
    code, err = run()
    assert code == 1 and f"training: no label files found; expected are {root}/images/training/*.jpg and" in err
    assert f"{root}/annotations/training/*.png, both from ADEChallengeData2016.zip" in err
    assert "validation: of 2 images" in err


def test_the_full_ade20k_is_refused(root, run):
    (root / "images/ADE/training").mkdir(parents=True)
    code, err = run()
    assert code == 1 and "ADE20K_2021_17_01.zip" in err and "prepare_ade20k_847.py" in err


def test_real_samples(sample_data, root, run):
    samples = sample_data / "ade20k_150"
    for kind in ("images", "annotations"):
        shutil.rmtree(root / kind / "validation")
        shutil.copytree(samples / kind, root / kind / "validation")
    assert run("--splits", "validation")[0] == 0
    records = dataset_records("ade20k_150_val")
    assert len(records) == 2
    for record in records:
        raw = np.array(Image.open(samples / "annotations" / f"{record['image_id']}.png")).astype(int)
        np.testing.assert_array_equal(read_labels(record["sem_seg_file_name"]), np.where(raw == 0, 255, raw - 1))


def test_a_full_disk_is_told_in_one_line(root, run, monkeypatch):
    def full(path, *_, **__):
        raise DiskFullError(f"{path}: could not be written, the disk is full")

    monkeypatch.setattr("escnet.data.preparation.making.write_labels", full)
    code, err = run()
    # The bar of progress stands before it.
    assert code == 1 and "could not be written, the disk is full" in err.strip().splitlines()[-1]
    assert "Traceback" not in err

"""datasets/prepare_coco_panoptic.py: segments to train ids, PNG against json, real samples."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from escnet.data.class_tables import load_class_names
from escnet.data.images import read_labels, write_labels
from escnet.data.registration import dataset_records

SCRIPT = "datasets/prepare_coco_panoptic.py"
# Segment ids 5, 300 = 44 + 256, 70000 = 112 + 17 * 256 + 65536, 16777215 and void, as (R, G, B); their categories are
# person, toothbrush, banner and rug-merged, which are the first and the last of the things and of the stuff.
COLORS = [(5, 0, 0), (44, 1, 0), (112, 17, 1), (255, 255, 255), (0, 0, 0)]
SEGMENTS = {5: 1, 300: 90, 70000: 92, 16777215: 200}
TRAIN_IDS = [0, 79, 80, 132, 255]


def write_index(root, split, names, segments=SEGMENTS):
    listed = [{"id": number, "category_id": category} for number, category in segments.items()]
    annotations = [{"image_id": 1, "file_name": f"{name}.png", "segments_info": listed} for name in names]
    (root / f"annotations/panoptic_{split}.json").write_text(json.dumps({"annotations": annotations}))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """COCO as published, with one image per split."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        (root / f"panoptic_{split}").mkdir()
        Image.new("RGB", (5, 2)).save(root / split / "000000000001.jpg")
        colors = np.array([COLORS, COLORS[::-1]], dtype=np.uint8)
        Image.fromarray(colors).save(root / f"panoptic_{split}/000000000001.png")
        write_index(root, split, ["000000000001"])
    return root


def test_every_pixel(root, run):
    code, out = run()
    assert code == 0 and "4 of 133 classes occur, 129 do not; 20.00% of the pixels are ignored" in out
    for dataset in ("coco_panoptic_train", "coco_panoptic_val"):
        (record,) = dataset_records(dataset)
        np.testing.assert_array_equal(read_labels(record["sem_seg_file_name"]), [TRAIN_IDS, TRAIN_IDS[::-1]])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no json", "panoptic_val2017.json: does not exist; expected is that of panoptic_annotations_trainval2017.zip"),
        ("other json", r"panoptic_val2017.json: is not a panoptic json \(KeyError: 'segments_info'\)"),
        ("cut json", "panoptic_val2017.json: is not a panoptic json"),
        ("unlisted segment", r"000000000001.png: the segments \[300\] of the PNG are not listed"),
        ("unknown category", r"000000000001.png: the json uses the categories \[12\], which are unknown"),
        ("unlisted image", "1 label maps are only in one of them: 000000000001; take both"),
        ("image too many", "1 label maps are only in one of them: 000000000002"),
        ("no photograph", "val2017: no images found"),
        ("grey", "000000000001.png: has the mode L where 8-bit RGB is expected"),
        ("size", "000000000001.png: 2x5 pixels .*has 9x9"),
    ],
)
def test_faulty_trees(root, run, fault, message):
    index = root / "annotations/panoptic_val2017.json"
    if fault == "no json":
        index.unlink()
    elif fault == "other json":
        index.write_text('{"annotations": [{"file_name": "1.png"}]}')
    elif fault == "cut json":
        index.write_text(index.read_text()[:-9])
    elif fault == "unlisted segment":
        write_index(root, "val2017", ["000000000001"], {key: value for key, value in SEGMENTS.items() if key != 300})
    elif fault == "unknown category":
        write_index(root, "val2017", ["000000000001"], {**SEGMENTS, 300: 12})
    elif fault == "unlisted image":
        write_index(root, "val2017", [])
    elif fault == "image too many":
        write_index(root, "val2017", ["000000000001", "000000000002"])
    elif fault == "no photograph":
        (root / "val2017/000000000001.jpg").unlink()
    elif fault == "grey":
        write_labels(root / "panoptic_val2017/000000000001.png", np.ones((2, 5), int))
    elif fault == "size":
        Image.new("RGB", (9, 9)).save(root / "val2017/000000000001.jpg")
    code, err = run()
    assert code == 1 and re.search(message, err), err
    assert not (root / "panoptic_semseg_train2017").exists() and not (root / "panoptic_semseg_val2017").exists()


def test_real_samples(sample_data, root, run):
    samples = sample_data / "coco_panoptic"
    for folder, sample in (("val2017", "input_images"), ("panoptic_val2017", "panoptic_examples")):
        shutil.rmtree(root / folder)
        shutil.copytree(samples / sample, root / folder)
    shutil.copy(samples / "panoptic_examples.json", root / "annotations/panoptic_val2017.json")
    assert run("--splits", "val2017")[0] == 0
    contents = json.loads((samples / "panoptic_examples.json").read_text())
    names, records = load_class_names("coco_panoptic_133.tsv"), dataset_records("coco_panoptic_val")
    category_name = {category["id"]: category["name"] for category in contents["categories"]}
    assert len(records) == len(contents["annotations"]) == 2
    for record, annotation in zip(records, sorted(contents["annotations"], key=lambda a: a["file_name"]), strict=True):
        labels = read_labels(record["sem_seg_file_name"])
        # The areas in the json are an account of the pixels that is independent of the PNG.
        areas = dict.fromkeys(names, 0)
        for segment in annotation["segments_info"]:
            areas[category_name[segment["category_id"]]] += segment["area"]
        pixels = np.bincount(labels.ravel(), minlength=256)
        assert dict(zip(names, pixels.tolist(), strict=False)) == areas
        assert pixels[255] == labels.size - sum(areas.values())

"""datasets/prepare_coco_sample.py: panoptic samples become COCO-Stuff labels, checked by hand and on real samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from escnet.data.class_tables import load_class_names
from escnet.data.images import read_image, read_labels
from escnet.data.registration import dataset_records

CATEGORIES = [
    {"id": 90, "name": "toothbrush", "isthing": 1},
    {"id": 149, "name": "road", "isthing": 0},
    {"id": 184, "name": "tree-merged", "isthing": 0},
    {"id": 199, "name": "wall-other-merged", "isthing": 0},
    {"id": 186, "name": "ceiling-merged", "isthing": 0},
]
SEGMENTS = [
    {"id": 5, "category_id": 90},
    {"id": 300, "category_id": 149},
    {"id": 70000, "category_id": 184},
    {"id": 256, "category_id": 199},
    {"id": 16777215, "category_id": 186},
]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "samples"
    for name in ("input_images", "panoptic_examples"):
        (folder / name).mkdir(parents=True)
    # Segment ids 5, 300 = 44 + 256, 70000 = 112 + 17 * 256 + 65536, 256, 16777215 and void, as (R, G, B).
    pixels = [(5, 0, 0), (44, 1, 0), (112, 17, 1), (0, 1, 0), (255, 255, 255), (0, 0, 0)]
    Image.fromarray(np.array([pixels, pixels[::-1]], dtype=np.uint8)).save(folder / "panoptic_examples/7.png")
    Image.new("RGB", (6, 2)).save(folder / "input_images/7.jpg")
    write_index(folder, SEGMENTS)
    return folder


def write_index(folder, segments, categories=CATEGORIES):
    annotation = {"image_id": 7, "file_name": "7.png", "segments_info": segments}
    contents = {"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": [annotation], "categories": categories}
    (folder / "panoptic_examples.json").write_text(json.dumps(contents))


def run(load_script, source, output):
    return load_script("datasets/prepare_coco_sample.py").main(
        ["--source", str(source), "--output", str(output / "coco-stuff")]
    )


def test_labels_by_hand(source, tmp_path, monkeypatch, load_script, capsys):
    for _ in range(2):
        assert run(load_script, source, tmp_path) == 0
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (record,) = dataset_records("coco_stuff_train")
    names = load_class_names("coco_stuff_171.tsv")
    expected = [names.index(name) for name in ("toothbrush", "road", "tree", "wall-other")] + [255, 255]
    np.testing.assert_array_equal(read_labels(record["sem_seg_file_name"]), [expected, expected[::-1]])
    assert "1 images" in capsys.readouterr().out and "ignored" not in record


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no json", "panoptic_examples.json: does not exist"),
        ("unlisted", r"7.png: the segments [256] of the PNG are not listed"),
        ("no category", "7.png: the json uses the categories [149]"),
        ("other things", "thing 90 'comb' is not a thing of COCO-Stuff"),
        ("no image", "7.jpg: does not exist"),
        ("other size", "its image (3, 3)"),
    ],
)
def test_faulty_samples_are_refused(source, tmp_path, capsys, load_script, fault, message):
    if fault == "no json":
        (source / "panoptic_examples.json").unlink()
    elif fault == "unlisted":
        write_index(source, [segment for segment in SEGMENTS if segment["id"] != 256])
    elif fault == "no category":
        write_index(source, SEGMENTS, [category for category in CATEGORIES if category["id"] != 149])
    elif fault == "other things":
        write_index(source, SEGMENTS, [{"id": 90, "name": "comb", "isthing": 1}, *CATEGORIES[1:]])
    elif fault == "no image":
        (source / "input_images/7.jpg").unlink()
    elif fault == "other size":
        Image.new("RGB", (3, 3)).save(source / "input_images/7.jpg")
    assert run(load_script, source, tmp_path) == 1
    assert message in capsys.readouterr().err


def test_real_samples(sample_data, tmp_path, monkeypatch, load_script):
    assert run(load_script, sample_data / "coco_panoptic", tmp_path) == 0
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    contents = json.loads((sample_data / "coco_panoptic/panoptic_examples.json").read_text())
    names, records = load_class_names("coco_stuff_171.tsv"), dataset_records("coco_stuff_train")
    assert len(records) == len(contents["annotations"])
    category_name = {category["id"]: category["name"] for category in contents["categories"]}
    for record in records:
        (annotation,) = [a for a in contents["annotations"] if a["file_name"].startswith(record["image_id"])]
        labels = read_labels(record["sem_seg_file_name"])
        assert labels.shape == read_image(record["file_name"]).shape[:2]
        # The areas in the json are an account of the pixels that is independent of the PNG.
        for name in {category_name[segment["category_id"]] for segment in annotation["segments_info"]} & set(names):
            areas = [s["area"] for s in annotation["segments_info"] if category_name[s["category_id"]] == name]
            assert (labels == names.index(name)).sum() == sum(areas)

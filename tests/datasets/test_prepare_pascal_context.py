"""datasets/prepare_pascal_context.py: 459 classes from .mat, 59 from the json or from .mat, where the split is from."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image
from pycocotools import mask as run_lengths

from escnet.data.images import read_labels
from escnet.data.registration import dataset_records

SCRIPT = "datasets/prepare_pascal_context.py"
# pycocotools is compiled for the older interface of NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Of the 459, 2 (aeroplane) and 458 (wood) are the first and the last of the 59, and 19 is the fourth: 2, 9, 18, 19.
# 1 and 459 are none of them, 0 is not labelled.
RAW = np.array([[2, 458, 19], [1, 459, 0]])
PC_459 = np.array([[1, 457, 18], [0, 458, 65535]])
PC_59 = np.array([[0, 58, 3], [255, 255, 255]])
MASKS = [(19, [[1, 1, 1], [1, 1, 1]]), (2, [[1, 1, 0], [0, 0, 0]]), (458, [[0, 1, 0], [0, 0, 0]]),
         (1, [[0, 0, 0], [1, 1, 0]]), (0, [[0, 0, 0], [0, 0, 1]])]  # fmt: skip


def write_mat(path, labels, dtype="uint16", key="LabelMap"):
    path.parent.mkdir(exist_ok=True)
    scipy.io.savemat(path, {key: labels.astype(dtype)})


def encode(mask, kind="str"):
    """Run lengths as pycocotools writes them, or as a list: column by column, how many 0, how many 1, ..."""
    mask = np.asfortranarray(mask, dtype=np.uint8)
    if kind == "list":
        pixels, counts, value = mask.ravel(order="F").tolist(), [0], 0
        for pixel in pixels:
            if pixel != value:
                value = pixel
                counts.append(0)
            counts[-1] += 1
        return {"size": list(mask.shape), "counts": counts}
    lengths = run_lengths.encode(mask)
    return {"size": lengths["size"], "counts": lengths["counts"].decode()}


def write_json(root, phases, masks=MASKS, kind="str", changes=None):
    images = [
        {"file_name": f"{name}.jpg", "image_id": index, "height": 2, "width": 3, "phase": phase}
        for index, (name, phase) in enumerate(phases.items())
    ]
    annotations = [
        {"image_id": image["image_id"], "category_id": category, "segmentation": encode(mask, kind)}
        for category, mask in masks
        for image in images
    ]
    contents = {"images": images, "annos_segmentation": annotations, "categories": [], **(changes or {})}
    (root / "trainval_merged.json").write_text(json.dumps(contents))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """VOC 2010 with the .mat files of Pascal Context: a in train, b and c in val; d has no annotation."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "VOCdevkit/VOC2010"
    for folder in ("JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name in "abcd":
        Image.new("RGB", (3, 2)).save(root / f"JPEGImages/{name}.jpg")
    for name in "abc":
        write_mat(root / f"trainval/{name}.mat", RAW)
    (root / "ImageSets/Main/train.txt").write_text("a\nd\n")
    (root / "ImageSets/Main/val.txt").write_text("b\nc\n")
    return root


def labels_of(dataset):
    return {record["image_id"]: read_labels(record["sem_seg_file_name"]) for record in dataset_records(dataset)}


@pytest.mark.parametrize("dtype", ["uint16", "double", "int32"])
def test_every_pixel_from_mat_files_alone(root, run, dtype):
    write_mat(root / "trainval/b.mat", RAW, dtype)
    code, out = run()
    assert (
        code == 0 and out.count("labels from trainval; split from ImageSets/Main/val.txt, of which trainval has") == 2
    )
    assert "5 of 459 classes occur, 454 do not; 16.67% of the pixels are ignored" in out
    assert "3 of 59 classes occur, 56 do not; 50.00% of the pixels are ignored" in out
    for dataset, expected in (("pascal_context_59", PC_59), ("pascal_context_459", PC_459)):
        for split, names in (("train", "a"), ("val", "bc")):
            found = labels_of(f"{dataset}_{split}")
            assert "".join(found) == names
            for labels in found.values():
                np.testing.assert_array_equal(labels, expected)
    with Image.open(root / "annotations_detectron2/pc459_val/b.tif") as image:
        assert (image.format, image.mode) == ("TIFF", "I;16")


@pytest.mark.parametrize("kind", ["str", "list"])
def test_every_pixel_from_the_json(root, run, kind):
    shutil.rmtree(root / "trainval")
    write_json(root, {"a": "val", "b": "train", "d": "train"}, kind=kind)
    code, out = run("--classes", "59")
    assert code == 0 and "labels from trainval_merged.json; split from trainval_merged.json" in out
    # Masks later in the list lie on top: of 19 over all, one pixel is left.
    for split, names in (("train", "bd"), ("val", "a")):
        found = labels_of(f"pascal_context_59_{split}")
        assert "".join(found) == names
        for labels in found.values():
            np.testing.assert_array_equal(labels, PC_59)
    assert not (root / "annotations_detectron2/pc459_val").exists()


def test_the_json_decides_the_split_of_both_and_the_labels_of_59(root, run):
    write_json(root, {"a": "val", "b": "train", "c": "val"}, masks=[(9, np.ones((2, 3)))])
    code, out = run()
    assert code == 0 and "labels from trainval; split from trainval_merged.json" in out
    assert list(labels_of("pascal_context_459_val")) == ["a", "c"]
    assert all((labels == 1).all() for labels in labels_of("pascal_context_59_val").values())
    np.testing.assert_array_equal(labels_of("pascal_context_459_train")["b"], PC_459)


def test_a_list_of_its_own_is_preferred_to_that_of_voc(root, run):
    (root / "pascalcontext_val.txt").write_text("c\n")
    code, out = run("--splits", "val")
    assert code == 0 and out.count("split from pascalcontext_val.txt") == 2
    assert list(labels_of("pascal_context_59_val")) == ["c"]


def test_labels_from_another_source_are_not_mixed_with_what_is_there(root, run):
    run()
    write_json(root, {"a": "train", "b": "val", "c": "val"})
    code, err = run()
    assert code == 1 and '{"labels_from": "trainval"}, not with {"labels_from": "trainval_merged.json"}' in err
    assert run("--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("unknown", "b.mat: unknown ids 460; expected the ids 0..459, .*trainval.tar.gz"),
        ("negative", "b.mat: unknown ids -1"),
        ("broken numbers", r"b.mat: LabelMap is float64 of shape \(2, 3\), not \(H,W\) whole numbers"),
        ("other key", "b.mat: has Labels and no LabelMap"),
        ("damaged", "b.mat: cannot be read as a MATLAB file"),
        ("size", "b.mat: 2x2 pixels .*b.jpg has 2x3"),
        ("no mat at all", r"no label files found; .*trainval/\*.mat from trainval.tar.gz or .*trainval_merged.json"),
        ("no mat", "of 2 images, 1 without labels: c"),
        ("no photograph", "of 2 images, 1 without a photograph: b"),
        ("no list", "val.txt: is missing or empty"),
        ("list of others", "ImageSets/Main/val.txt, of which trainval has a .mat names no image of the split"),
    ],
)
def test_faulty_trees(root, run, fault, message):
    mat, arguments = root / "trainval/b.mat", ["--splits", "val"]
    if fault == "unknown":
        write_mat(mat, np.full((2, 3), 460))
    elif fault == "negative":
        write_mat(mat, np.full((2, 3), -1), "int16")
    elif fault == "broken numbers":
        write_mat(mat, np.full((2, 3), 1.5), "double")
    elif fault == "other key":
        write_mat(mat, RAW, key="Labels")
    elif fault == "damaged":
        mat.write_bytes(mat.read_bytes()[:150])
    elif fault == "size":
        write_mat(mat, RAW[:, :2])
    elif fault == "no mat at all":
        shutil.rmtree(root / "trainval")
        arguments += ["--classes", "59"]
    elif fault == "no mat":
        (root / "pascalcontext_val.txt").write_text("b\nc\n")
        (root / "trainval/c.mat").unlink()
    elif fault == "no photograph":
        (root / "JPEGImages/b.jpg").unlink()
    elif fault == "no list":
        (root / "ImageSets/Main/val.txt").unlink()
    elif fault == "list of others":
        (root / "ImageSets/Main/val.txt").write_text("d\n")
    code, err = run(*arguments)
    assert code == 1 and re.search(message, err), err
    assert not (root / "annotations_detectron2").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cut off", "trainval_merged.json: is not the json of Pascal Context, or is cut off"),
        ("other json", "trainval_merged.json: is not the json of Pascal Context"),
        ("unlisted image", r"trainval_merged.json: is not the json .*KeyError: 7"),
        ("no masks", "of 2 images, 1 without labels: b"),
        ("unknown id", "trainval_merged.json, b.jpg: unknown ids 460"),
        ("polygons", r"a mask of .*b.jpg is not given in run lengths of 2x3 pixels"),
        ("other size", r"a mask of .*b.jpg is not given in run lengths of 2x3 pixels"),
        ("no mat", "no label files found; .*--classes 59 does without"),
        ("no val", "trainval_merged.json names no image of the split"),
    ],
)
def test_faulty_json(root, run, fault, message):
    path, arguments = root / "trainval_merged.json", ["--splits", "val", "--classes", "59"]
    write_json(root, {"b": "val"})
    if fault == "cut off":
        path.write_text(path.read_text()[:-20])
    elif fault == "other json":
        path.write_text('{"images": [], "annotations": []}')
    elif fault == "unlisted image":
        write_json(root, {"b": "val"}, changes={"annos_segmentation": [{"image_id": 7}]})
    elif fault == "no masks":
        mask = {"image_id": 1, "category_id": 2, "segmentation": encode(np.ones((2, 3)))}
        write_json(root, {"b": "val", "c": "val"}, changes={"annos_segmentation": [mask]})
    elif fault == "unknown id":
        write_json(root, {"b": "val"}, masks=[(460, np.ones((2, 3)))])
    elif fault == "polygons":
        polygon = {"image_id": 0, "category_id": 2, "segmentation": [[0, 0, 1, 1, 2, 0]]}
        write_json(root, {"b": "val"}, changes={"annos_segmentation": [polygon]})
    elif fault == "other size":
        write_json(root, {"b": "val"}, masks=[(2, np.ones((3, 2)))])
    elif fault == "no mat":
        shutil.rmtree(root / "trainval")
        arguments = ["--splits", "val"]
    elif fault == "no val":
        write_json(root, {"b": "train"})
    code, err = run(*arguments)
    assert code == 1 and re.search(message, err), err
    assert not (root / "annotations_detectron2").exists()

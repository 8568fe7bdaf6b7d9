"""datasets/prepare_ade20k_847.py: ids from colours, shrinking, the tree of the archive, real samples."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from escnet.data.class_tables import load_class_names
from escnet.data.images import read_image, read_labels
from escnet.data.registration import dataset_records

SCRIPT = "datasets/prepare_ade20k_847.py"
# wall 2978, building 312, adding machine 3148, and none of the 847: 0 and 3001, as (R, G, instance).
COLORS = [(110, 162, 3), (10, 56, 0), (129, 76, 255), (0, 0, 0), (119, 185, 1)]
TRAIN_IDS = [0, 1, 846, 65535, 65535]


def write_scene(folder, name, colors, image=None):
    """A photograph and its label file in a folder of the archive; the photograph is black if none is given."""
    folder.mkdir(parents=True, exist_ok=True)
    colors = np.asarray(colors, dtype=np.uint8)
    Image.fromarray(colors).save(folder / f"{name}_seg.png")
    image = Image.new("RGB", colors.shape[1::-1]) if image is None else image
    image.save(folder / f"{name}.jpg", quality=95)


def scene_colors(height, width):
    """The colours above in vertical stripes of about equal width."""
    stripes = np.arange(width) * len(COLORS) // width
    return np.broadcast_to(np.array(COLORS, dtype=np.uint8)[stripes], (height, width, 3))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """ADE20K_2021_17_01 as published: scenes in folders of folders, with a folder of masks beside each photograph."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "ADE20K_2021_17_01"
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        folder = root / "images/ADE" / split / "urban/street"
        write_scene(folder, name, [COLORS, COLORS[::-1]])
        (folder / f"{name}.json").write_text("{}")
        write_scene(folder / name, "instance_000_ADE", [COLORS])
        write_scene(folder / name, "ADE_train_00000009", [COLORS])
    (root / "index_ade20k.pkl").write_bytes(b"a pickle that nobody opens")
    return root


def test_every_pixel(root, run):
    code, out = run()
    assert code == 0 and "3 of 847 classes occur, 844 do not; 40.00% of the pixels are ignored" in out
    for dataset in ("ade20k_847_train", "ade20k_847_val"):
        (record,) = dataset_records(dataset)
        labels = read_labels(record["sem_seg_file_name"])
        np.testing.assert_array_equal(labels, [TRAIN_IDS, TRAIN_IDS[::-1]])
        with Image.open(record["sem_seg_file_name"]) as image:
            assert (image.format, image.mode) == ("TIFF", "I;16")
        assert read_image(record["file_name"]).shape == (2, 5, 3)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [((30, 41), 16, (16, 22)), ((41, 30), 16, (22, 16)), ((16, 50), 16, (16, 50)), ((10, 90), 0, (10, 90))],
)
def test_sizes(root, run, size, short_side, expected):
    scene = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    write_scene(root / "images/ADE/validation/a", "ADE_val_00000002", scene_colors(*size), Image.fromarray(scene))
    assert run("--splits", "validation", "--short-side", str(short_side))[0] == 0
    record = dataset_records("ade20k_847_val[1:]")[0]
    columns = np.arange(expected[1]) * size[1] // expected[1]
    stripes = np.array(TRAIN_IDS)[columns * len(TRAIN_IDS) // size[1]]
    np.testing.assert_array_equal(read_labels(record["sem_seg_file_name"]), np.broadcast_to(stripes, expected))
    assert read_image(record["file_name"]).shape[:2] == expected


def test_photographs_are_saved_with_the_quality_of_the_peers_or_linked(root, run):
    output = root / "images_detectron2/validation/ADE_val_00000001.jpg"
    original = root / "images/ADE/validation/urban/street/ADE_val_00000001.jpg"
    Image.new("RGB", (8, 8)).save(root / "75.jpg", quality=75)
    assert run("--splits", "validation")[0] == 0
    with Image.open(output) as image, Image.open(root / "75.jpg") as reference:
        assert image.quantization == reference.quantization and not output.is_symlink()
    assert run("--splits", "validation", "--short-side", "0", "--overwrite")[0] == 0
    assert output.is_symlink() and output.read_bytes() == original.read_bytes()
    root.rename(root.with_name("moved"))  # the link goes with it
    assert (root.with_name("moved") / "images_detectron2/validation/ADE_val_00000001.jpg").read_bytes()


def test_an_exif_orientation_is_left_out_as_the_labels_were_drawn_without(root, run):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.repeat(np.uint8([[[0] * 3, [60] * 3, [120] * 3, [180] * 3, [240] * 3]]), 2, axis=0))
    stored.save(root / "images/ADE/validation/urban/street/ADE_val_00000001.jpg", exif=exif, quality=95)
    for short_side in ("512", "0"):
        assert run("--splits", "validation", "--short-side", short_side, "--overwrite")[0] == 0
        (record,) = dataset_records("ade20k_847_val")
        grey = read_image(record["file_name"])[..., 0].astype(int)
        assert grey.shape == (2, 5) and (np.diff(grey, axis=1) > 20).all()


def test_resuming_looks_at_photographs_too(root, run):
    run()
    labels, image = (root / f"{kind}_detectron2/validation/ADE_val_00000001.{suffix}"
                     for kind, suffix in (("annotations", "tif"), ("images", "jpg")))  # fmt: skip
    before = labels.read_bytes(), image.read_bytes()
    for damage in (lambda: image.unlink(), lambda: image.write_bytes(before[1][:100]), lambda: labels.unlink()):
        damage()
        assert "(1 made, 0 already there)" in run("--splits", "validation")[1]
        assert (labels.read_bytes(), image.read_bytes()) == before
    assert "(0 made, 1 already there)" in run("--splits", "validation")[1]


def test_another_short_side_is_not_mixed_with_what_is_there(root, run):
    run()
    code, err = run("--short-side", "256")
    assert code == 1 and '{"short_side": 512}, not with {"short_side": 256}' in err and "--overwrite" in err
    assert run("--short-side", "256", "--overwrite")[0] == 0
    assert run("--short-side", "-1")[0] == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("other zip", "annotations: this is ADEChallengeData2016.zip, for which there is prepare_ade20k_150.py"),
        ("other release", "images: has no folder ADE, so this is another release of ADE20K"),
        ("nothing", r"validation: no images found; expected are .*images/ADE/validation/\*\*/ADE_\*.jpg with _seg.png"),
        ("no labels", "of 2 images, 1 without labels: ADE_val_00000002"),
        ("no photograph", "of 2 images, 1 without a photograph: ADE_val_00000002"),
        ("twice", "ADE_val_00000001 more than once"),
        ("grey", "ADE_val_00000001_seg.png: has the mode L where 8-bit RGB is expected"),
        ("size", "ADE_val_00000001_seg.png: 2x4 pixels .* has 2x5"),
        ("no class", "ADE_val_00000001_seg.png and 0 others looked at: not one pixel of the 847 classes"),
    ],
)
def test_faulty_trees(root, run, fault, message):
    folder = root / "images/ADE/validation/urban/street"
    if fault in ("other zip", "other release"):
        shutil.rmtree(root / "images/ADE")
        if fault == "other zip":
            (root / "annotations").mkdir()
    elif fault == "nothing":
        shutil.rmtree(folder)
    elif fault in ("no labels", "no photograph"):
        write_scene(folder, "ADE_val_00000002", [COLORS])
        (folder / f"ADE_val_00000002{'_seg.png' if fault == 'no labels' else '.jpg'}").unlink()
    elif fault == "twice":
        write_scene(folder.parent / "square", "ADE_val_00000001", [COLORS])
    elif fault == "grey":
        Image.new("L", (5, 2)).save(folder / "ADE_val_00000001_seg.png")
    elif fault == "size":
        Image.fromarray(scene_colors(2, 4)).save(folder / "ADE_val_00000001_seg.png")
    elif fault == "no class":
        write_scene(folder, "ADE_val_00000001", [[COLORS[3], COLORS[4]]])
    code, err = run()
    assert code == 1 and re.search(message, err), err
    assert not (root / "annotations_detectron2").exists() and not (root / "images_detectron2").exists()


def test_real_samples(sample_data, root, run):
    shutil.rmtree(root / "images")
    shutil.copytree(sample_data / "ade20k_full/images", root / "images")
    assert run("--splits", "training")[0] == 0
    with (sample_data.parent / "facts/classes/ade20k_847.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    train_ids = {int(row["raw_id"]): int(row["train_id"]) for row in rows}
    names, records = load_class_names("ade20k_847.tsv"), dataset_records("ade20k_847_train")
    assert [record["image_id"] for record in records] == ["ADE_train_00016869", "ADE_train_00016900"]
    for record, size in zip(records, ((512, 683), (512, 683)), strict=True):
        original = root / "images/ADE/training/urban/street" / record["image_id"]
        colors = np.array(Image.open(f"{original}_seg.png")).astype(int)
        raw = colors[..., 0] // 10 * 256 + colors[..., 1]
        rows, columns = (np.arange(new) * old // new for new, old in zip(size, raw.shape, strict=True))
        small = raw[rows][:, columns]
        expected = np.vectorize(lambda number: train_ids.get(number, 65535))(small)
        labels = read_labels(record["sem_seg_file_name"])
        np.testing.assert_array_equal(labels, expected)

        objects = json.loads(original.with_suffix(".json").read_text(encoding="utf-8"))["annotation"]["object"]
        drawn = {name_index: thing["name"] for thing in objects if (name_index := thing["name_ndx"]) in train_ids}
        found = {names[number] for number in np.unique(labels[labels != 65535])}
        assert found <= set(drawn.values()) and len(found) >= 10
        assert {"building, edifice", "car, auto, automobile, machine, motorcar"} <= found

        photograph = read_image(record["file_name"])
        assert photograph.shape[:2] == size
        smooth = np.array(Image.open(original.with_suffix(".jpg")).resize(size[::-1], Image.Resampling.BILINEAR))
        assert np.abs(photograph.astype(int) - smooth).mean() < 12

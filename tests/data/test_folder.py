"""A user's own dataset: read, sliced, trained on by the mapper, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from escnet.data.errors import DatasetError
from escnet.data.folder import read_folder
from escnet.data.images import ImageError, label_bits
from escnet.data.label_spaces import label_spaces
from escnet.data.mappers import IGNORE_LABEL, TrainingMapper
from escnet.data.registration import dataset_metadata, dataset_records


def write_folder(
    root: Path, classes: str = "cat, kitten\ngrass\n", bits: int = 8, ids: tuple[int, ...] = (0, 1)
) -> str:
    """Two pictures of 6x8, the left half of the first class and the right of the second, with an ignored corner."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for name, suffix in (("a", ".jpg"), ("b", ".PNG")):
        labels = np.full((6, 8), ids[0], dtype=np.uint8 if bits == 8 else np.uint16)
        labels[:, 4:], labels[0, 0] = ids[1], 2**bits - 1
        Image.new("RGB", (8, 6)).save(root / f"images/{name}{suffix}")
        Image.fromarray(labels).save(root / f"labels/{name}.png")
    (root / "classes.txt").write_text(classes, encoding="utf-8")
    return f"folder:{root}"


@pytest.mark.parametrize("bits", [8, 16])
def test_records_classes_and_ignored_id(tmp_path, bits):
    name = write_folder(tmp_path / "mine", bits=bits)
    records, metadata = dataset_records(name), dataset_metadata(name)
    assert [record["image_id"] for record in records] == ["a", "b"] and records[0]["dataset"] == name
    assert metadata.stuff_classes == ["cat, kitten", "grass"] and metadata.ignore_label == 2**bits - 1
    assert [record["image_id"] for record in dataset_records(f"{name}[1:]")] == ["b"]
    space = label_spaces([f"{name}[1:]"])[name]
    assert space.vocabulary.rows == (("cat", "kitten"), ("grass",))
    sample = TrainingMapper({name: space}, short_sides=(6,), max_size=20, crop_size=(6, 8), random_flip="none")(
        records[0]
    )
    assert sample["sem_seg"][0, 0] == IGNORE_LABEL and sample["sem_seg"][5].tolist() == [0] * 4 + [1] * 4


def test_300_classes_in_16_bits(tmp_path):
    name = write_folder(tmp_path / "mine", "\n".join(f"class {i}" for i in range(300)), bits=16, ids=(255, 299))
    assert len(read_folder(name).classes) == 300 and read_folder(name).ignore_label == 65535


def test_too_many_classes_for_8_bits(tmp_path):
    name = write_folder(tmp_path / "mine", "\n".join(f"class {i}" for i in range(256)))
    with pytest.raises(DatasetError, match=r"a\.png: 8-bit, which cannot hold the 256 classes.*16-bit"):
        dataset_records(name)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda root: (root / "classes.txt").unlink(), r"classes\.txt: cannot be read.*expected are"),
        (lambda root: (root / "classes.txt").write_text("cat\n\ngrass"), r"classes\.txt: line 2 is empty"),
        (lambda root: (root / "classes.txt").write_text(""), r"classes\.txt: line 1 is empty"),
        (lambda root: (root / "classes.txt").write_text("cat\ncat"), r"classes\.txt: 'cat' occurs twice"),
        (lambda root: (root / "labels/a.png").unlink(), r"image\(s\) without a label map: a"),
        (lambda root: (root / "images/a.jpg").unlink(), r"label map\(s\) without a"),
        (lambda root: Image.new("L", (8, 6)).save(root / "images/a.png"), "the same name; remove one"),
        (lambda root: [file.unlink() for file in (root / "labels").iterdir()], "no label map found"),
        (lambda root: Image.new("RGB", (8, 6)).save(root / "labels/a.png"), r"a\.png: has the mode RGB"),
        (lambda root: (root / "labels/a.png").write_bytes(b"no"), r"a\.png: cannot be read"),
    ],
)
def test_faults_are_named(tmp_path, fault, message):
    name = write_folder(tmp_path / "mine")
    fault(tmp_path / "mine")
    with pytest.raises((DatasetError, ImageError), match=message):
        dataset_records(name)


def test_missing_folder_says_what_belongs_there(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no folder .*/none; expected are .*images.*labels.*classes\.txt"):
        dataset_records(f"folder:{tmp_path}/none")


@pytest.mark.parametrize(("mode", "bits"), [("L", 8), ("P", 8), ("I;16", 16), ("I", 16)])
def test_label_bits(tmp_path, mode, bits):
    Image.new(mode, (4, 4)).save(tmp_path / "labels.tif")
    assert label_bits(tmp_path / "labels.tif") == bits

"""Label files of another depth than their dataset's are refused in every way in, and turned as they say themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from escnet.data.errors import DatasetError
from escnet.data.images import ImageError, bits_of, has_orientation, read_labels, write_labels
from escnet.data.inspection import inspect_dataset
from escnet.data.label_spaces import label_spaces, read_training_labels
from escnet.data.mappers import EvaluationMapper, TrainingMapper
from escnet.data.registration import dataset_metadata, dataset_records
from escnet.evaluation.semantic import SemanticEvaluator

MESSAGE = r"1\.tif: has 8 bits a pixel, but the label maps of its dataset have 16.*prepare script"


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """PC-459 with three images, of which the second has labels of 8 bits, where 255 should say not labelled."""
    root = tmp_path / "VOCdevkit/VOC2010"
    (root / "JPEGImages").mkdir(parents=True)
    labels = np.array([[0, 458, 65535]])
    for index in range(3):
        Image.new("RGB", (3, 1)).save(root / f"JPEGImages/{index}.jpg")
        narrow = {"labels": np.array([[0, 1, 255]]), "bits": 8}
        wide = {"labels": labels, "bits": 16}
        write_labels(root / f"annotations_detectron2/pc459_val/{index}.tif", **(narrow if index == 1 else wide))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return "pascal_context_459_val"


def by_training_mapper(dataset: str, record: dict[str, Any]) -> None:
    TrainingMapper(label_spaces([dataset]), short_sides=(1,), max_size=3, crop_size=(1, 3), color_jitter=False)(record)


def by_evaluation_mapper(dataset: str, record: dict[str, Any]) -> None:
    EvaluationMapper(label_spaces([dataset]), with_truth=True)(record)


def by_evaluator(dataset: str, record: dict[str, Any]) -> None:
    dataset_metadata(dataset)
    SemanticEvaluator(dataset, distributed=False).process([record], [{"labels": np.zeros((1, 3), int)}])


def by_reader(dataset: str, record: dict[str, Any]) -> None:
    (space,) = label_spaces([dataset]).values()
    read_training_labels(record["sem_seg_file_name"], space)


@pytest.mark.parametrize("part", ["", "[1:]"])
@pytest.mark.parametrize("read", [by_training_mapper, by_evaluation_mapper, by_evaluator, by_reader])
def test_another_depth_is_refused(context: str, read: Callable[[str, dict[str, Any]], None], part: str) -> None:
    good, bad, other = dataset_records(context)
    for record in (good, other):
        read(context + part, record)
    with pytest.raises(ValueError, match=MESSAGE):
        read(context + part, bad)


def test_the_check_refuses_it(context: str) -> None:
    assert inspect_dataset(context).faults == [
        "the label maps are {16: 2, 8: 1} (bits: files), but should be all 16-bit"
    ]  # fmt: skip
    assert inspect_dataset(f"{context}[1:2]").faults == [
        "the label maps are {8: 1} (bits: files), but should be all 16-bit"
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [8, 16])
def test_the_first_label_map_of_a_folder_decides(tmp_path: Path, bits: int) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, depth in (("a", bits), ("b", 24 - bits)):
        Image.new("RGB", (3, 1)).save(tmp_path / f"images/{name}.png")
        write_labels(tmp_path / f"labels/{name}.png", np.array([[0, 1, 1]]), bits=depth)
    (tmp_path / "classes.txt").write_text("cat\ngrass\n")
    name = f"folder:{tmp_path}"
    first, second = dataset_records(name)
    for read in (by_training_mapper, by_evaluation_mapper, by_evaluator):
        read(name, first)
        with pytest.raises(ValueError, match=rf"b\.png: has {24 - bits} bits a pixel.* have {bits}"):
            read(name, second)
    # Of the part alone, every file has another depth than the folder.
    assert inspect_dataset(f"{name}[1:]").faults == [
        f"the label maps are {{{24 - bits}: 1}} (bits: files), but should be all {bits}-bit"
    ]


@pytest.fixture
def registered(context: str) -> Iterator[str]:
    """A dataset that a user has registered, of the files of PC-459."""
    records = [{**record, "dataset": "of_a_user"} for record in dataset_records(context)]
    DatasetCatalog.register("of_a_user", lambda: records)
    MetadataCatalog.get("of_a_user").set(stuff_classes=[f"class {index}" for index in range(459)], ignore_label=65535)
    yield "of_a_user"
    DatasetCatalog.remove("of_a_user")
    MetadataCatalog.remove("of_a_user")


def test_datasets_of_users_may_say_their_bits(registered: str) -> None:
    for record in dataset_records(registered):
        by_evaluation_mapper(registered, record)
    MetadataCatalog.get(registered).label_bits = 16
    for read in (by_training_mapper, by_evaluation_mapper, by_evaluator):
        with pytest.raises(ValueError, match=MESSAGE):
            read(registered, dataset_records(registered)[1])


def test_other_bits_than_8_and_16_are_refused(registered: str) -> None:
    MetadataCatalog.get(registered).label_bits = 32
    with pytest.raises(DatasetError, match=r"of_a_user.*label_bits.*32"):
        label_spaces([registered])


@pytest.mark.parametrize(("mode", "bits"), [("L", 8), ("P", 8), ("I;16", 16), ("I", 16)])
def test_the_pixels_tell_the_bits(tmp_path: Path, mode: str, bits: int) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    assert bits_of(read_labels(tmp_path / "a.tif", bits)) == bits
    with pytest.raises(ImageError, match=f"has {bits} bits"):
        read_labels(tmp_path / "a.tif", 24 - bits)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_labels_are_turned_by_their_own_orientation(tmp_path: Path, suffix: str) -> None:
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(labels).save(tmp_path / f"a.{suffix}", exif=exif)
    assert has_orientation(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_labels(tmp_path / f"a.{suffix}"), np.rot90(labels, -1))

"""The benchmark table, its class files, its registration, and the checks when a dataset is loaded."""

from __future__ import annotations

import importlib
import logging
import shutil
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

import escnet.data
from escnet.data import benchmarks
from escnet.data.benchmarks import (
    BENCHMARKS,
    dataset_folder_name,
    find_benchmark,
    full_dataset_name,
    split_dataset_name,
)
from escnet.data.class_tables import load_class_names, load_class_table
from escnet.data.errors import DatasetError
from escnet.data.registration import dataset_metadata, dataset_records


def test_every_row_is_registered_and_ignores_an_id_that_is_no_class():
    assert len({benchmark.name for benchmark in BENCHMARKS}) == len(BENCHMARKS)
    for benchmark in BENCHMARKS:
        metadata = dataset_metadata(benchmark.name)
        assert benchmark.name in DatasetCatalog and metadata.evaluator_type == "sem_seg"
        names = load_class_names(benchmark.classes)[slice(*benchmark.rows)]
        assert metadata.stuff_classes == [*names, *(["background"] if benchmark.background else [])]
        assert len(metadata.stuff_classes) <= metadata.ignore_label < 2**benchmark.bits
        # 8 bits wherever they suffice, as the peers' files are.
        assert (benchmark.bits == 16) == (len(names) > 255)


def test_the_benchmarks_of_zero_shot_models():
    assert {row.short: (row.name, len(row.class_names), row.ignored) for row in BENCHMARKS if row.short} == {
        "stuff171": ("coco_stuff_val", 171, 255),
        "a150": ("ade20k_150_val", 150, 255),
        "a847": ("ade20k_847_val", 847, 65535),
        "pc59": ("pascal_context_59_val", 59, 255),
        "pc459": ("pascal_context_459_val", 459, 65535),
        "pas20": ("voc_20_val", 20, 255),
        "pas20b": ("voc_20b_val", 21, 255),
        "panoptic133": ("coco_panoptic_val", 133, 255),
        "moji_base": ("mojiscenes_val_base", 92, 255),
        "moji_novel": ("mojiscenes_val_novel", 52, 255),
        "moji_many": ("mojiscenes_val_many", 52, 255),
        "moji_all": ("mojiscenes_val_all", 132, 255),
        "moji_847": ("mojiscenes_val_847", 847, 65535),
    }
    assert find_benchmark("camvid_val").ignored == 11


def test_the_labels_can_use_a_part_of_the_class_file():
    table = load_class_table("mojiscenes_847.tsv")
    assert len(table) == 847
    assert find_benchmark("moji_novel").class_names == [row.original for row in table[80:132]]
    assert find_benchmark("moji_novel").class_table == table[80:132]
    assert find_benchmark("moji_base").class_names == [row.original for row in table[:92]]
    assert find_benchmark("moji_all").class_table == table[:132] and find_benchmark("moji_847").class_table == table
    # Of a dataset with background, that is no row.
    assert len(find_benchmark("pas20b").class_table) == 20 and len(find_benchmark("pas20b").class_names) == 21


def test_the_scored_classes_are_in_the_metadata_and_fit():
    metadata = {benchmark.name: dataset_metadata(benchmark.name) for benchmark in BENCHMARKS}
    scored = {name: found.scored_classes for name, found in metadata.items() if found.scored_classes is not None}
    assert scored == {
        "mojiscenes_val_base": (0, 80),
        "mojiscenes_val_novel": (12, 52),
        "mojiscenes_val_many": (12, 52),
    }
    for name, (first, end) in scored.items():
        assert 0 <= first < end <= len(metadata[name].stuff_classes)
    # What is not scored is the ground, the same words in both.
    base, novel = (metadata[f"mojiscenes_val_{split}"].stuff_classes for split in ("base", "novel"))
    assert base[80:] == novel[:12] and "grass" in novel[:12] and not set(base[:80]) & set(novel[12:])


def test_a_slice_scores_what_the_whole_does_and_other_datasets_score_all():
    assert dataset_metadata("mojiscenes_val_novel[:3]").scored_classes == (12, 52)
    assert dataset_metadata("camvid_val[:3]").get("scored_classes") is None


def test_short_names():
    assert full_dataset_name("a150") == "ade20k_150_val"
    assert full_dataset_name("pas20b[:8]") == "voc_20b_val[:8]"
    assert full_dataset_name("camvid_train[2:]") == "camvid_train[2:]"
    assert full_dataset_name("folder:/data/a150") == "folder:/data/a150"
    assert find_benchmark("a847[:2]") is find_benchmark("ade20k_847_val") and find_benchmark("") is None


def test_names_of_folders():
    assert dataset_folder_name("camvid_val[:8]") == "camvid_val[:8]"
    assert dataset_folder_name("folder:/data/my set") == "folder_data_my_set"
    assert dataset_folder_name("folder:../mine[:2]") == "folder_.._mine[:2]"


def test_a_shared_image_folder_holds_other_splits_too(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    voc = tmp_path / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "annotations_detectron2/val"):
        (voc / folder).mkdir(parents=True)
    for name in ("a", "b", "c"):
        (voc / f"JPEGImages/{name}.jpg").touch()
    (voc / "annotations_detectron2/val/b.png").touch()
    assert [record["image_id"] for record in dataset_records("voc_20_val")] == ["b"]
    (voc / "annotations_detectron2/val/d.png").touch()
    with pytest.raises(DatasetError, match=r"label map\(s\) without a image: d"):
        dataset_records("voc_20_val")


def test_importing_twice_is_safe(monkeypatch):
    before = list(DatasetCatalog)
    monkeypatch.setattr(escnet.data, "benchmarks", benchmarks)  # both are put back after the test
    monkeypatch.delitem(sys.modules, "escnet.data.benchmarks")
    again = importlib.import_module("escnet.data.benchmarks")
    assert again is not benchmarks and list(DatasetCatalog) == before


def test_records_are_sorted_pairs(camvid_root):
    records = dataset_records("camvid_train")
    assert records == DatasetCatalog.get("camvid_train")
    assert [record["image_id"] for record in records] == list("01234")
    assert records[1] == {
        "file_name": str(camvid_root / "camvid/images/train/1.png"),
        "sem_seg_file_name": str(camvid_root / "camvid/annotations/train/1.png"),
        "image_id": "1",
        "dataset": "camvid_train",
    }
    assert MetadataCatalog.get("camvid_train").image_root == str(camvid_root / "camvid/images/train")
    assert MetadataCatalog.get("camvid_train").sem_seg_root == str(camvid_root / "camvid/annotations/train")


def test_data_root_is_read_when_the_dataset_is_loaded(camvid_root, tmp_path, monkeypatch):
    assert dataset_records("camvid_val")
    moved = shutil.move(camvid_root / "camvid", tmp_path / "elsewhere/camvid")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    assert dataset_records("camvid_val")[0]["file_name"] == f"{moved}/images/val/0.png"
    assert MetadataCatalog.get("camvid_val").image_root == f"{moved}/images/val"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("camvid_train[:2]", "01"),
        ("camvid_train[3:]", "34"),
        ("camvid_train[1:3]", "12"),
        ("camvid_train[:99]", "01234"),
    ],
)
def test_slices(camvid_root, name, expected):
    records = dataset_records(name)
    assert [record["image_id"] for record in records] == list(expected)
    assert {record["dataset"] for record in records} == {"camvid_train"}
    # Detectron2's own functions accept the name from now on.
    assert DatasetCatalog.get(name) == records
    assert MetadataCatalog.get(name).stuff_classes == dataset_metadata("camvid_train").stuff_classes
    assert MetadataCatalog.get(name).image_root == str(camvid_root / "camvid/images/train")
    assert dataset_metadata(name).name == name


def test_split_dataset_name():
    assert split_dataset_name("camvid_train") == ("camvid_train", slice(None))
    assert split_dataset_name("camvid_train[2:8]") == ("camvid_train", slice(2, 8))
    assert split_dataset_name("camvid_train[8]") == ("camvid_train[8]", slice(None))


@pytest.mark.parametrize("name", ["camvid", "camvid[:3]", "camvid_train[8]", "camvid_train[-3:]"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(DatasetError, match=r"unknown dataset.*coco_stuff_train.*camvid_val.*DatasetCatalog"):
        dataset_records(name)
    assert name not in DatasetCatalog


def test_an_empty_slice_is_an_error(camvid_root):
    with pytest.raises(DatasetError, match=r"'camvid_val\[3:\]' holds no image: 'camvid_val' has 3"):
        dataset_records("camvid_val[3:]")


def test_nothing_on_disk_says_what_was_expected_where(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError) as error:
        dataset_records("coco_stuff_val")
    for part in (
        "no image found",
        f"{tmp_path}/coco-stuff/images/val2017/*.jpg",
        "stuffthingmaps",
        "prepare_coco_stuff.py",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_files_without_partner_are_named(camvid_root, kind):
    (camvid_root / "camvid" / kind / "train/3.png").unlink()
    lonely = "image" if kind == "annotations" else "label map"
    with pytest.raises(DatasetError, match=rf"1 {lonely}\(s\) without.*: 3; expected are.*prepare_camvid.py"):
        dataset_records("camvid_train")


def test_hidden_files_are_left_out(camvid_root):
    (camvid_root / "camvid/images/val/._0.png").touch()
    assert len(dataset_records("camvid_val")) == 3


def test_an_incomplete_split_is_reported(camvid_root, monkeypatch, caplog):
    shutil.copytree(camvid_root / "camvid/images/val", camvid_root / "ADEChallengeData2016/images/validation")
    for path in (camvid_root / "ADEChallengeData2016/images/validation").iterdir():
        path.rename(path.with_suffix(".jpg"))
    shutil.copytree(
        camvid_root / "camvid/annotations/val", camvid_root / "ADEChallengeData2016/annotations_detectron2/validation"
    )
    monkeypatch.setattr(logging.getLogger("escnet.data.benchmarks"), "propagate", True)
    with caplog.at_level("WARNING"):
        assert len(dataset_records("ade20k_150_val")) == 3
    assert "3 images" in caplog.text and "2000" in caplog.text

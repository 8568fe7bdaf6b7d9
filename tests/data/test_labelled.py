"""Few labelled images: which ones a seed chooses, what is held out of them, and the file that says so."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg

from escnet.config import add_escnet_config
from escnet.data.errors import DatasetError
from escnet.data.labelled import LabelledSplit, check_labelled, choose_labelled, labelled_split, write_labelled
from escnet.data.registration import dataset_records

Record = dict[str, Any]


def records_of(count: int, dataset: str = "camvid_train") -> list[Record]:
    return [{"dataset": dataset, "image_id": f"{i:03}", "file_name": f"{dataset}/{i:03}.png"} for i in range(count)]


def ids(records: list[Record]) -> set[tuple[str, str]]:
    return {(record["dataset"], record["image_id"]) for record in records}


@pytest.fixture
def cfg(camvid_root: Path, tmp_path: Path) -> CfgNode:
    """Five training images of CamVid."""
    cfg = get_cfg()
    add_escnet_config(cfg)
    cfg.DATASETS.TRAIN, cfg.OUTPUT_DIR = ("camvid_train",), str(tmp_path / "run")
    return cfg


def test_all_images_are_the_records_as_they_are() -> None:
    records = records_of(9)[::-1]
    assert choose_labelled(records) == LabelledSplit(records)
    assert choose_labelled(records, images=9, seed=3) == LabelledSplit(records)


@pytest.mark.parametrize("validation", [0.0, 0.1, 0.34, 0.5, 0.9])
def test_fewer_images_are_a_part_of_more(validation: float) -> None:
    smaller = LabelledSplit([])
    for count in range(2 if validation else 1, 31):
        split = choose_labelled(records_of(30), count, seed=5, validation=validation)
        training, held_out = ids(split.training), ids(split.validation)
        assert len(training) + len(held_out) == count and not training & held_out
        assert ids(smaller.training) <= training and ids(smaller.validation) <= held_out
        expected = min(count - 1, max(1, int(count * validation + 0.5))) if validation else 0
        assert len(held_out) == expected
        smaller = split


def test_the_choice_depends_on_seed_and_images_alone() -> None:
    records = records_of(40)
    split = choose_labelled(records, 10, seed=1, validation=0.2)
    shuffled = random.Random(0).sample(records, 40)
    same = choose_labelled(shuffled, 10, seed=1, validation=0.2)
    assert ids(same.training) == ids(split.training) and ids(same.validation) == ids(split.validation)
    assert split.training == sorted(split.training, key=lambda record: record["image_id"])
    others = [ids(choose_labelled(records, 10, seed=seed).training) for seed in range(20)]
    assert len(set(map(frozenset, others))) == 20
    # Of another version of NumPy, too.
    assert sorted(image for _, image in ids(choose_labelled(records, 4, seed=0).training)) == [
        "022",
        "026",
        "032",
        "039",
    ]


@pytest.mark.parametrize(("images", "count"), [(1, 1), (1.0, 1), (7.0, 7), (0.1, 2), (0.13, 3), (0.001, 1), (0.99, 20)])
def test_counts_and_shares(images: float, count: int) -> None:
    assert len(choose_labelled(records_of(20), images).training) == count


def test_images_of_several_datasets_may_have_one_id() -> None:
    records = records_of(6) + records_of(6, "ade20k_150_train")
    split = choose_labelled(records, 8, validation=0.25)
    assert len(split.training) == 6 and len(split.validation) == 2
    assert {record["dataset"] for record in split.training} == {"camvid_train", "ade20k_150_train"}
    # What overlaps, as two slices of one dataset may, is never on both sides.
    twice = choose_labelled(records_of(6) + records_of(4), 5, validation=0.4)
    assert len(ids(twice.training)) == 3 and len(ids(twice.validation)) == 2
    assert not ids(twice.training) & ids(twice.validation)


@pytest.mark.parametrize(
    ("images", "validation", "message"),
    [
        (2.5, 0.0, r"LABELLED\.IMAGES is 2\.5; it has to be a whole number"),
        (6, 0.0, r"LABELLED\.IMAGES is 6, but camvid_train has 5 images; set it to at most 5, or to 0"),
        (
            1,
            0.5,
            r"LABELLED\.VALIDATION is 0\.5.* there is 1 labelled image: set LABELLED\.VALIDATION to 0, or LABELLED",
        ),
        (0.1, 0.5, r"LABELLED\.VALIDATION is 0\.5"),
    ],
)
def test_what_cannot_be_chosen(images: float, validation: float, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        choose_labelled(records_of(5), images, validation=validation)


def test_a_record_without_an_id_is_named() -> None:
    with pytest.raises(DatasetError, match=r"a\.png: its record has no 'image_id'"):
        choose_labelled([{"dataset": "mine", "file_name": "a.png"}], 1)


def test_a_config_names_datasets_and_numbers(cfg: CfgNode) -> None:
    assert labelled_split(cfg).training == dataset_records("camvid_train")
    cfg.LABELLED.IMAGES, cfg.LABELLED.VALIDATION = 3.0, 0.34
    split = labelled_split(cfg)
    assert len(split.training) == 2 and len(split.validation) == 1
    assert labelled_split(cfg, dataset_records("camvid_train")) == split


def test_the_choice_may_go_with_the_seed_of_the_training(cfg: CfgNode) -> None:
    cfg.LABELLED.IMAGES, chosen = 2.0, {}
    for own, seed in ((-1, 1), (-1, 2), (1, 2), (-1, 1)):
        cfg.LABELLED.SEED, cfg.SEED = own, seed
        chosen[own, seed] = ids(labelled_split(cfg).training)
    assert chosen[-1, 1] == chosen[1, 2] != chosen[-1, 2]
    cfg.LABELLED.SEED, cfg.SEED = -1, 7
    write_labelled(cfg, labelled_split(cfg))
    assert json.loads((Path(cfg.OUTPUT_DIR) / "labelled.json").read_text())["seed"] == 7


def test_the_file_holds_the_ids(cfg: CfgNode) -> None:
    cfg.LABELLED.IMAGES, cfg.LABELLED.SEED, cfg.LABELLED.VALIDATION = 3.0, 4, 0.34
    split = labelled_split(cfg)
    write_labelled(cfg, split)
    assert json.loads((Path(cfg.OUTPUT_DIR) / "labelled.json").read_text()) == {
        "datasets": ["camvid_train"],
        "seed": 4,
        "training": {"camvid_train": [record["image_id"] for record in split.training]},
        "validation": {"camvid_train": [record["image_id"] for record in split.validation]},
    }
    check_labelled(cfg, split)
    for key, value in (("SEED", 5), ("IMAGES", 4.0), ("VALIDATION", 0.0)):
        other = cfg.clone()
        other.LABELLED[key] = value
        with pytest.raises(DatasetError, match=r"labelled\.json: the run in this folder has other labelled images"):
            check_labelled(other, labelled_split(other))


def test_a_run_on_all_images_has_no_file(cfg: CfgNode) -> None:
    path, everything = Path(cfg.OUTPUT_DIR) / "labelled.json", labelled_split(cfg)
    write_labelled(cfg, everything)
    check_labelled(cfg, everything)
    assert not path.exists()
    few = cfg.clone()
    few.LABELLED.IMAGES = 2.0
    with pytest.raises(DatasetError, match="no such file, so the run was begun on all images"):
        check_labelled(few, labelled_split(few))
    write_labelled(few, labelled_split(few))
    with pytest.raises(DatasetError, match="has other labelled images"):
        check_labelled(cfg, everything)
    path.write_text("{")
    with pytest.raises(DatasetError, match="cannot be read as JSON"):
        check_labelled(few, labelled_split(few))
    write_labelled(cfg, everything)
    assert not path.exists()

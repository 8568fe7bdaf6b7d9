"""Tests of the packaged class files: agreement with the published lists, and the rules the clean names keep."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest

from escnet.data.class_tables import CLASS_FOLDER, load_class_table

HEADER = ["train_id", "raw_id", "original", "name", "synonyms"]
COUNTS = {
    "ade20k_150": 150,
    "ade20k_847": 847,
    "coco_stuff_171": 171,
    "coco_panoptic_133": 133,
    "pascal_context_59": 59,
    "pascal_context_459": 459,
    "pascal_voc_20": 20,
    "camvid_11": 11,
    "mojiscenes_847": 847,
}
PASCAL_CONTEXT_59_IN_459 = [
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
]  # fmt: skip
CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
CLEAN = re.compile(r"[a-z0-9'-]+( [a-z0-9'-]+)*")

Row = tuple[int, int, str, str, tuple[str, ...]]


@lru_cache
def table(dataset: str) -> tuple[Row, ...]:
    """A packaged file read without escnet: train id, raw id, original, name, synonyms."""
    lines = (CLASS_FOLDER / f"{dataset}.tsv").read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    header, *cells = (line.split("\t") for line in lines)
    assert header == HEADER
    return tuple(
        (int(train_id), int(raw_id), original, name, tuple(synonyms.split(", ")) if synonyms else ())
        for train_id, raw_id, original, name, synonyms in cells
    )


def column(dataset: str, name: str) -> list:
    return [row[HEADER.index(name)] for row in table(dataset)]


def clean_words(dataset: str) -> list[str]:
    return [word for row in table(dataset) for word in (row[3], *row[4])]


@pytest.fixture
def facts(sample_data: Path) -> Path:
    """The folder of class lists that were compared with the published files."""
    folder = sample_data.parent / "facts" / "classes"
    if not folder.is_dir():
        pytest.skip(f"no class lists in {folder}")
    return folder


def read_facts(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_no_class_file_is_left_out():
    assert {path.name for path in CLASS_FOLDER.iterdir()} == {f"{dataset}.tsv" for dataset in COUNTS}


@pytest.mark.parametrize(("dataset", "count"), COUNTS.items())
class TestEveryFile:
    def test_has_its_classes_in_order(self, dataset, count):
        assert column(dataset, "train_id") == list(range(count))

    def test_ids_and_names_are_unique(self, dataset, count):
        for name in ("raw_id", "original"):
            assert len(set(column(dataset, name))) == count
        assert len({name.lower() for name in column(dataset, "name")}) == count

    def test_is_read_alike_by_escnet(self, dataset, count):
        assert [tuple(row) for row in load_class_table(f"{dataset}.tsv")] == list(table(dataset))

    def test_cells_have_no_blanks_at_the_ends_and_no_quotes(self, dataset, count):
        for _, _, original, name, synonyms in table(dataset):
            for cell in (original, name, *synonyms):
                assert cell and cell == cell.strip() and '"' not in cell

    def test_clean_names_are_lower_case_words(self, dataset, count):
        assert [word for word in clean_words(dataset) if not CLEAN.fullmatch(word)] == []

    def test_no_clean_word_stands_twice(self, dataset, count):
        repeated = [word for word, times in Counter(clean_words(dataset)).items() if times > 1]
        assert repeated == []  # neither as two names, nor as a name and a synonym, nor as two synonyms


@pytest.mark.parametrize(
    "dataset",
    ["ade20k_150", "ade20k_847", "coco_stuff_171", "pascal_context_59", "pascal_context_459", "pascal_voc_20"],
)
def test_originals_are_the_published_names(dataset: str, facts: Path):
    published = read_facts(facts / f"{dataset}.tsv")
    assert column(dataset, "train_id") == [int(line["train_id"]) for line in published]
    assert column(dataset, "original") == [line["name"].strip() for line in published]


@pytest.mark.parametrize("dataset", ["ade20k_847", "coco_stuff_171"])
def test_raw_ids_are_the_published_ids(dataset: str, facts: Path):
    assert column(dataset, "raw_id") == [int(line["raw_id"]) for line in read_facts(facts / f"{dataset}.tsv")]


@pytest.mark.parametrize("dataset", ["ade20k_150", "pascal_context_459", "pascal_voc_20"])
def test_raw_ids_begin_at_one_where_zero_is_background(dataset: str):
    assert column(dataset, "raw_id") == list(range(1, COUNTS[dataset] + 1))


def test_camvid():
    assert column("camvid_11", "raw_id") == list(range(11))
    assert column("camvid_11", "original") == CAMVID


def test_coco_things_are_the_raw_ids_below_91(facts: Path):
    raw_ids = column("coco_stuff_171", "raw_id")
    is_thing = [bool(int(line["is_thing"])) for line in read_facts(facts / "coco_stuff_171.tsv")]
    assert [raw_id < 91 for raw_id in raw_ids] == is_thing
    assert set(range(182)) - set(raw_ids) == {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}


def test_ade20k_150_has_the_first_names_of_its_object_list(sample_data: Path):
    with (sample_data / "ade20k_150" / "objectInfo150.txt").open(encoding="utf-8") as stream:
        published = [(int(line["Idx"]), line["Name"].split(",")) for line in csv.DictReader(stream, delimiter="\t")]
    assert column("ade20k_150", "raw_id") == [index for index, _ in published]
    differences = {}
    for (_, names), original in zip(published, column("ade20k_150", "original"), strict=True):
        assert original in [name.strip() for name in names]
        if original != names[0].strip():
            differences[original] = names[0]
    # The packaged file keeps the name that the full list of ADE20K has first.
    assert differences == {"television receiver": "television"}


def test_ade20k_lists_agree_on_the_classes_they_share():
    full = {(original.split(",")[0], name) for _, _, original, name, _ in table("ade20k_847")}
    small = {(original, name) for _, _, original, name, _ in table("ade20k_150")}
    assert small - full == {("crt screen", "crt screen")}  # "screen, crt screen" in the full list


def test_coco_panoptic_has_the_published_categories(sample_data: Path):
    categories = json.loads((sample_data / "coco_panoptic" / "panoptic_coco_categories.json").read_text("utf-8"))
    assert column("coco_panoptic_133", "raw_id") == [category["id"] for category in categories]
    assert column("coco_panoptic_133", "original") == [category["name"] for category in categories]
    assert [category["isthing"] for category in categories] == [1] * 80 + [0] * 53


def test_coco_panoptic_continues_coco_stuff():
    stuff = {original: (raw_id, name) for _, raw_id, original, name, _ in table("coco_stuff_171")}
    merged = [original for original in column("coco_panoptic_133", "original") if original.endswith("-merged")]
    for _, raw_id, original, name, _ in table("coco_panoptic_133"):
        if original not in merged:
            assert stuff[original] == (raw_id - 1, name)  # stuffthingmaps count COCO's ids from 0
    assert len(merged) == 17


def test_pascal_context_59_is_a_part_of_459():
    assert column("pascal_context_59", "raw_id") == PASCAL_CONTEXT_59_IN_459
    full = {raw_id: (original, name, synonyms) for _, raw_id, original, name, synonyms in table("pascal_context_459")}
    differences = [
        (original, full[raw_id][0])
        for _, raw_id, original, name, synonyms in table("pascal_context_59")
        if (original, name, synonyms) != full[raw_id]
    ]
    assert differences == [("diningtable", "table")]


def test_pascal_voc_is_a_part_of_pascal_context_59():
    context = {original: (name, synonyms) for _, _, original, name, synonyms in table("pascal_context_59")}
    for _, _, original, name, synonyms in table("pascal_voc_20"):
        assert context[original] == (name, synonyms)


@pytest.mark.parametrize(
    ("dataset", "original", "name"),
    [
        ("ade20k_150", "conveyer belt", "conveyor belt"),
        ("ade20k_150", "bannister", "banister"),
        ("ade20k_150", "glass", "drinking glass"),
        ("ade20k_150", "ashcan", "trash can"),
        ("coco_stuff_171", "wall-brick", "brick wall"),
        ("coco_stuff_171", "floor-wood", "wooden floor"),
        ("coco_stuff_171", "ceiling-tile", "tiled ceiling"),
        ("coco_stuff_171", "building-other", "building"),
        ("coco_stuff_171", "mouse", "computer mouse"),
        ("coco_panoptic_133", "tree-merged", "tree"),
        ("coco_panoptic_133", "sky-other-merged", "sky"),
        ("coco_panoptic_133", "door-stuff", "door"),
        ("pascal_context_59", "pottedplant", "potted plant"),
        ("pascal_context_459", "babycarriage", "baby carriage"),
        ("pascal_context_459", "casetterecorder", "cassette recorder"),
        ("pascal_context_459", "hot-airballoon", "hot-air balloon"),
        ("pascal_voc_20", "diningtable", "dining table"),
        ("pascal_voc_20", "aeroplane", "airplane"),
    ],
)
def test_clean_names(dataset: str, original: str, name: str):
    assert [row[3] for row in table(dataset) if row[2] == original] == [name]


def test_clean_names_tell_the_homonyms_of_ade20k_847_apart():
    homonyms: dict[str, list[str]] = {}
    for _, _, original, name, _ in table("ade20k_847"):
        homonyms.setdefault(original.split(",")[0], []).append(name)
    assert {first: names for first, names in homonyms.items() if len(names) > 1} == {
        "bag": ["bag", "travel bag", "handbag"],
        "pot": ["flowerpot", "cooking pot"],
        "basket": ["basket", "basketball hoop"],
        "screen": ["crt screen", "projection screen"],
        "pier": ["pier", "bridge pier"],
        "control panel": ["control panel", "control board"],
        "pipe": ["pipe", "tube"],
        "grill": ["grille", "cooking grill"],
        "patio": ["patio", "terrace"],
    }


def test_synonyms_are_kept_clean_of_the_original_lists_oddities():
    words = {word for dataset in COUNTS for word in clean_words(dataset)}
    assert words.isdisjoint({"mortal", "soul", "idiot box", "crapper", "equus caballus"})
    synonyms = {original.split(",")[0]: synonyms for _, _, original, _, synonyms in table("ade20k_847")}
    assert synonyms["television receiver"] == ("television set", "tv")
    assert synonyms["person"] == ()

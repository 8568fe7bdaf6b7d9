"""Reading class files: their columns, and what is refused."""

from __future__ import annotations

import pytest

from escnet.data.class_tables import ClassRow, load_class_names, load_class_table
from escnet.data.errors import DatasetError

HEADER = "train_id\traw_id\toriginal\tname\tsynonyms\n"


@pytest.mark.parametrize(
    ("file", "length", "first", "last"),
    [
        ("coco_stuff_171.tsv", 171, "person", "wood"),
        ("ade20k_150.tsv", 150, "wall", "flag"),
        ("ade20k_847.tsv", 847, "wall", "adding machine, totalizer, totaliser"),
        ("pascal_voc_20.tsv", 20, "aeroplane", "tvmonitor"),
        ("camvid_11.tsv", 11, "sky", "bicyclist"),
    ],
)
def test_packaged_files(file, length, first, last):
    names = load_class_names(file)
    assert (len(names), names[0], names[-1]) == (length, first, last)


def test_coco_stuff_raw_ids_have_the_gaps_of_coco():
    raw = {row.original: row.raw_id for row in load_class_table("coco_stuff_171.tsv")}
    # COCO's category ids minus 1; 12 (street sign), 26 (hat) and nine others are unused.
    assert raw["person"] == 0 and raw["stop sign"] == 12 and raw["toothbrush"] == 89
    assert raw["banner"] == 91 and raw["wood"] == 181


def test_rows(tmp_path):
    path = tmp_path / "classes.tsv"
    path.write_text(HEADER + "0\t7\tdiningtable, board\tdining table\ttable, board\n1\t3\tsky \tsky\t\n")
    first, second = load_class_table(path)
    assert first == ClassRow(0, 7, "diningtable, board", "dining table", ("table", "board"))
    assert first.first_original == "diningtable" and first.clean == "dining table, table, board"
    assert second == ClassRow(1, 3, "sky", "sky", ()) and second.clean == "sky"


@pytest.mark.parametrize(
    "text",
    [
        "train_id\tname\n0\ta\n",
        HEADER,
        HEADER + "1\t1\ta\ta\t\n",
        HEADER + "0\t1\ta\ta\t\n1\t1\tb\tb\t\n",
        HEADER + "0\t1\ta\ta\t\n1\t2\ta\tb\t\n",
        HEADER + "0\t1\ta\ta\t\n1\t2\tb\ta\t\n",
        HEADER + "0\t1\ta\t\t\n",
        HEADER + "0\tx\ta\ta\t\n",
        HEADER + "0\t1\ta\n",
    ],
    ids=["columns", "empty", "start", "raw id twice", "original twice", "name twice", "no name", "no number", "short"],
)
def test_faulty_files_are_named(tmp_path, text):
    path = tmp_path / "classes.tsv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"classes\.tsv"):
        load_class_table(path)


def test_missing_file(tmp_path):
    with pytest.raises(DatasetError, match="no such class file"):
        load_class_table(tmp_path / "none.tsv")

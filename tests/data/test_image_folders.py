"""Folders of photographs by class: their order, their words, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from open_clip import IMAGENET_CLASSNAMES

from escnet.data.errors import DatasetError
from escnet.data.image_folders import LabelledImage, class_folders, name_classes, read_image_folder, write_classes


def make(root: Path, files: Sequence[str]) -> Path:
    """Empty files; nothing is opened while a folder is listed."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_classes_and_images_in_order(tmp_path: Path) -> None:
    make(tmp_path, ["sea_lion/b.JPEG", "sea_lion/a.png", "pear/c.jpg", "pear/notes.txt", "pear/.d.jpg", ".git/e.jpg"])
    folder = read_image_folder(tmp_path)
    assert folder.folders == ("pear", "sea_lion")
    names = [("pear/c.jpg", 0), ("sea_lion/a.png", 1), ("sea_lion/b.JPEG", 1)]
    assert folder.images == tuple(LabelledImage(*pair) for pair in names)
    assert name_classes(folder) == (("pear", "sea lion"), (0, 1))


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    """ImageNet-v2's folders are the indices of the classes."""
    folder = read_image_folder(make(tmp_path, [f"{number}/a.jpg" for number in range(1000)]))
    assert folder.folders == tuple(str(number) for number in range(1000))
    classes = name_classes(folder, "imagenet")
    assert classes.words == tuple(IMAGENET_CLASSNAMES)
    assert classes.words[classes.of_folder[folder.folders.index("207")]] == "Golden Retriever"


def test_classes_are_written_as_they_are_read(tmp_path: Path) -> None:
    words = ["sea lion", "bank, river", "Bank, money", "door/gate", ".hidden", "traffic  light"]
    folders = ("sea_lion", "bank", "Bank_", "door_gate", "hidden", "traffic_light")
    assert class_folders(words) == folders
    folder = read_image_folder(make(tmp_path / "val", [f"{name}/a.jpg" for name in folders[1:]]))
    write_classes(tmp_path / "lists/classes.tsv", words)
    classes = name_classes(folder, tmp_path / "lists/classes.tsv")
    assert classes.words == (*words[:-1], "traffic light")
    assert [folders[row] for row in classes.of_folder] == list(folder.folders)


def test_a_file_names_folders_and_further_classes(tmp_path: Path) -> None:
    folder = read_image_folder(make(tmp_path / "val", ["n01440764/a.jpg", "n01443537/a.jpg", "a/airfield/a.jpg"]))
    words = tmp_path / "words.txt"
    lines = ["n01443537\tgoldfish, Carassius auratus", "", "n9\tshark", "a/airfield\tairfield", "n01440764\ttench"]
    words.write_text("\n".join(lines))
    classes = name_classes(folder, words)
    assert folder.folders == ("a/airfield", "n01440764", "n01443537")
    assert classes == (("goldfish, Carassius auratus", "shark", "airfield", "tench"), (2, 3, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pear", r"line 1 is 'pear'; write folder<TAB>name"),
        ("pear\t ", "line 1"),
        ("pear\tpear\npear\tapple", "line 2 names the folder pear again"),
        ("\n", "names no class"),
        ("apple\tapple", "has no line for 1 of 1 folders of .*: pear"),
    ],
)
def test_refused_lists(tmp_path: Path, text: str, message: str) -> None:
    folder = read_image_folder(make(tmp_path / "val", ["pear/a.jpg"]))
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(DatasetError, match=message):
        name_classes(folder, tmp_path / "words.txt")


def test_refused_folders(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no folder"):
        read_image_folder(tmp_path / "none")
    with pytest.raises(DatasetError, match="holds no photographs"):
        read_image_folder(tmp_path)
    codes = read_image_folder(make(tmp_path / "codes", ["n01440764/a.jpg", "n01443537/a.jpg"]))
    with pytest.raises(DatasetError, match="called n01440764, n01443537, which says nothing"):
        name_classes(codes)
    with pytest.raises(DatasetError, match="has 2 folders, and --classes imagenet names 1000"):
        name_classes(codes, "imagenet")
    with pytest.raises(DatasetError, match=r"a\.jpg is in no folder of a class"):
        read_image_folder(make(tmp_path / "flat", ["a.jpg", "pear/b.jpg"]))
    with pytest.raises(DatasetError, match="cannot be read as a list"):
        name_classes(codes, tmp_path / "missing.txt")

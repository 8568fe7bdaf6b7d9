"""Captions in the two formats in which they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from escnet.data.captions import Captions, read_captions
from escnet.data.errors import DatasetError

COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}, {"id": 11, "file_name": "c.jpg"}],
    "annotations": [
        {"image_id": 9, "caption": "A dog,\n running. "},
        {"image_id": 7, "caption": "A cat."},
        {"image_id": 9, "caption": "The dog runs."},
    ],
}
KARPATHY = {
    "images": [
        {"filename": "x.jpg", "filepath": "val2014", "split": "test", "sentences": [{"raw": "one"}, {"raw": "two"}]},
        {"filename": "y.jpg", "split": "train", "sentences": [{"raw": "three"}]},
        {"filename": "z.jpg", "filepath": "val2014", "split": "test", "sentences": [{"raw": "four"}]},
    ]
}


def write(tmp_path: Path, contents: Any) -> Path:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(contents))
    return path


def test_coco(tmp_path: Path) -> None:
    path = write(tmp_path, COCO)
    found = read_captions(path, tmp_path)
    assert found == (("b.jpg", "a.jpg"), ("A dog, running.", "The dog runs.", "A cat."), (0, 0, 1))
    assert read_captions(path, tmp_path, per_image=1).texts == ("A dog, running.", "A cat.")


def test_karpathy(tmp_path: Path) -> None:
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "x.jpg").touch()
    (tmp_path / "z.jpg").touch()
    path = write(tmp_path, KARPATHY)
    assert read_captions(path, tmp_path) == (("val2014/x.jpg", "z.jpg"), ("one", "two", "four"), (0, 0, 1))
    assert read_captions(path, tmp_path, split="train").images == ("y.jpg",)
    with pytest.raises(DatasetError, match="has no split val; there are test, train"):
        read_captions(path, tmp_path, split="val")


def test_captions_of_some_images() -> None:
    captions = Captions(("a", "b", "c"), ("1", "2", "3", "4"), (0, 1, 1, 2))
    assert captions.of_images({"c": 0, "b": 1}) == (("c", "b"), ("2", "3", "4"), (1, 1, 0))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([], "holds a list, where captions are an object"),
        ({"images": [], "annotations": []}, "holds no caption"),
        ({"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}, "is not a file of captions"),
        ({"pictures": []}, "is not a file of captions"),
        (COCO | {"annotations": [{"image_id": 7, "caption": " "}]}, "a caption of a.jpg is ' '"),
    ],
)
def test_refused(tmp_path: Path, contents: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_captions(write(tmp_path, contents), tmp_path)


def test_a_missing_or_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no such file of captions"):
        read_captions(tmp_path / "none.json", tmp_path)
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(DatasetError, match="cannot be read as JSON"):
        read_captions(tmp_path / "half.json", tmp_path)

"""Prompts of pictures as JSON: to which pictures they belong, and what is told before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from escnet.labelling.pictures import LabellingError
from escnet.labelling.prompts import FORM, read_prompts
from escnet.meta_arch import ClipGuidedSam, DenseClip
from escnet.vocabulary import Vocabulary

WORDS = Vocabulary(["cat, kitty", "grass"], ["wall"])
FILES = [Path("photos/a.png"), Path("photos/b.png"), Path("more/b.png"), Path("c.png")]
POINT = {"points": [[1, 2]]}


def read(contents: Any, files: list[Path] = FILES) -> dict[Path, Any]:
    text = contents if isinstance(contents, str) else json.dumps(contents)
    return read_prompts(text, files, WORDS, ClipGuidedSam)


def test_a_picture_is_named_by_its_path_or_its_name() -> None:
    found = read({"a.png": {"kitty": POINT}, "more/b.png": {"wall": POINT, "grass": POINT}, "./c.png": {"cat": POINT}})
    assert list(found) == [FILES[0], FILES[2], FILES[3]]
    assert list(found[FILES[0]]) == ["cat, kitty"] and list(found[FILES[2]]) == ["wall", "grass"]
    assert found[FILES[3]]["cat, kitty"].points == ((1, 2),)
    assert read({}) == {} and read({"a.png": {}}) == {}


def test_the_text_itself_or_a_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = tmp_path / "sets" / "masks" / "cat.png"
    mask.parent.mkdir(parents=True)
    Image.new("1", (3, 3), 1).save(mask)
    path = tmp_path / "sets" / "prompts.json"
    path.write_text("\ufeff" + json.dumps({"a.png": {"cat": {"mask": "masks/cat.png"}}}), encoding="utf-8")
    assert read(str(path))[FILES[0]]["cat, kitty"].mask == mask
    absolute = {"a.png": {"cat": {"mask": str(mask), "labels": None}}}
    assert read(absolute)[FILES[0]]["cat, kitty"].mask == mask
    # Beside the folder of the JSON file there is none; without a file, paths start from the current folder.
    monkeypatch.chdir(tmp_path / "sets")
    assert read({"a.png": {"cat": {"mask": "masks/cat.png"}}})[FILES[0]]["cat, kitty"].mask == Path("masks/cat.png")
    path.write_text(json.dumps({"a.png": {"cat": {"mask": "cat.png"}}}))
    with pytest.raises(
        LabellingError, match=r'prompts\.json: "a\.png": the prompts of "cat": the mask .*sets.cat\.png is not'
    ):
        read(str(path))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("absent.json", r"--prompts absent\.json: there is no such file"),
        ("", "cannot be read"),
        ("{", "--prompts: is not valid JSON"),
        ('{"a.png": {}, "a.png": {}}', 'has "a.png" twice'),
        ('{"a.png": {"cat": {"box": [1, 2, 3, 4]}, "cat": {}}}', 'has "cat" twice'),
        ({"a.png": [POINT]}, '"a.png" has to be an object of words'),
        ({"b.png": {"cat": POINT}}, r'"b\.png" is the name of several pictures; .*: photos/b\.png, more/b\.png'),
        ({"a.png": {"cat": POINT}, "photos/a.png": {}}, r'"a\.png" and "photos/a\.png" are one picture'),
        (
            {"aa.png": {}, "other/a.png": {}},
            r'prompts of "aa\.png", "other/a\.png", not among the 4 pictures of --input, such as a\.png',
        ),
        ({"a.png": {"dog": POINT}}, r'--prompts: "a\.png": there are prompts of "dog", which is not in the vocabulary'),
        ({"a.png": {"cat": POINT, "kitty": POINT}}, "one class"),
        ({"a.png": {"cat": {"point": [1, 2]}}}, '"a.png": the prompts of "cat": there is no .point.'),
        ({"a.png": {"cat": {"points": [[1, float("inf")]]}}}, r'the prompts of "cat": points has \[1, inf\]'),
        ({"a.png": {"cat": {"mask": [[1]]}}}, r"mask is \[\[1\]\]; give the path of a picture"),
        ({"a.png": {"cat": {"mask": "absent.png"}}}, r"the mask absent\.png is not there"),
        ({"a.png": {"cat": 3}}, 'the prompts of "cat": it is 3'),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(contents: Any, message: str) -> None:
    with pytest.raises(LabellingError, match=message):
        read(contents)


def test_other_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(LabellingError, match=r"list\.json: has to be an object of pictures"):
        read(str(tmp_path / "list.json"))
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabellingError, match=r"bytes\.json: cannot be read as UTF-8"):
        read(str(tmp_path / "bytes.json"))
    with pytest.raises(LabellingError, match="DenseClip does not take prompts for words"):
        read_prompts(json.dumps({"a.png": {"cat": POINT}}), FILES, WORDS, DenseClip)


def test_the_form_that_messages_show_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (300, 300), 1).save("cat.png")
    assert len(read(FORM, [Path("photo.jpg")])) == 1

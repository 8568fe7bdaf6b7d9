"""The page's questions, asked of the shipped models without a browser."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from escnet.app.answering import Answering, NothingShownError
from escnet.app.examples import EXAMPLES
from escnet.app.limits import Limits
from escnet.app.models import SHIPPED, LoadedModels, offered_models
from escnet.data.images import read_image
from escnet.drawing.overlay import overlay
from escnet.prompt_values import PromptError
from escnet.vocabulary import VocabularyError

EXAMPLE = EXAMPLES[1]
UPLOAD = (EXAMPLE.file, "my castle.jpg")
WORDS = "castle, water, carpet, duck"


@pytest.fixture(scope="module")
def models() -> LoadedModels:
    return LoadedModels(SHIPPED, "cpu")


@pytest.fixture
def answering(models: LoadedModels) -> Answering:
    return Answering(models, Limits(sessions=2, encoded=2))


def names_of(payload: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in payload["classes"]]


def test_another_word_does_not_encode_again(answering: Answering, encodings: list[str]) -> None:
    first = answering.segment("a", UPLOAD, WORDS, "", "ESC-Net")
    assert names_of(first) == ["water", "carpet", "castle"]
    assert "picture encoded in" in first["status"]
    second = answering.segment("a", UPLOAD, "castle, water", "carpet, grass", "ESC-Net")
    assert names_of(second) == ["water", "background", "castle"]
    assert "picture not encoded again" in second["status"]
    assert encodings == ["ESC-Net"]
    answering.segment("b", UPLOAD, WORDS, "", "ESC-Net")
    answering.segment("a", UPLOAD, WORDS, "", "SAM-CLIP")
    assert encodings == ["ESC-Net", "ESC-Net", "SAM-CLIP"]


def test_the_answer_is_that_of_the_segmenter(answering: Answering, models: LoadedModels) -> None:
    answering.segment("a", UPLOAD, WORDS, "sky", "ESC-Net")
    expected = models.segmenter("ESC-Net")(EXAMPLE.file, WORDS.split(", "), ["sky"])
    file = answering.file("a", "labels")["file"]
    assert file["name"] == "my castle_labels.png"
    labels = Image.open(io.BytesIO(base64.b64decode(file["url"].split(",")[1])))
    assert np.array_equal(np.asarray(labels), expected.labels)


def test_the_other_files(answering: Answering) -> None:
    answering.segment("a", UPLOAD, WORDS, "", "SAM-CLIP")
    result = answering.sessions.of("a").shown.result
    file = answering.file("a", "overlay")["file"]
    picture = Image.open(io.BytesIO(base64.b64decode(file["url"].split(",")[1])))
    drawn = overlay(read_image(EXAMPLE.file), result.labels, result.class_names, result.scores)
    assert np.array_equal(np.asarray(picture), np.asarray(drawn))
    file = answering.file("a", "coco")["file"]
    coco = json.loads(base64.b64decode(file["url"].split(",")[1]))
    assert file["name"] == "my castle_coco.json"
    assert coco["images"][0]["file_name"] == "my castle.jpg"
    with pytest.raises(ValueError, match=r'there is no file "\.\./x"; there are labels, coco, overlay'):
        answering.file("a", "../x")


def test_clicks_and_boxes_of_words(answering: Answering, encodings: list[str]) -> None:
    plain = answering.segment("a", UPLOAD, WORDS, "", "CLIP-Guided SAM")
    assert plain["pointing"] == {"words": True, "masks": True}
    box = {"castle": {"box": [0, 220, 250, 383]}}
    pointed = answering.point("a", box)
    assert pointed["prompts"] == box
    assert pointed["map"] != plain["map"]
    # They stay with a word while it is asked for, in the same picture.
    assert answering.segment("a", UPLOAD, "castle, water", "", "CLIP-Guided SAM")["prompts"] == box
    assert answering.segment("a", UPLOAD, "duck, water", "", "CLIP-Guided SAM")["prompts"] == {}
    assert encodings == ["CLIP-Guided SAM"]
    assert answering.point("a", {})["prompts"] == {}


def test_a_mask_without_a_word(answering: Answering) -> None:
    shown = answering.segment("a", UPLOAD, WORDS, "", "SAM-CLIP")
    assert shown["pointing"] == {"words": False, "masks": True}
    answer = answering.point_without_word("a", {"points": [[60, 340]], "labels": [1]})
    assert names_of(answer) == ["what is pointed at"]
    assert 0.01 < answer["classes"][0]["share"] < 0.9
    assert "expected IoU" in answer["status"]


def test_what_cannot_be_answered(answering: Answering, encodings: list[str], tmp_path: Path) -> None:
    for question in (lambda: answering.point("a", {}), lambda: answering.file("a", "labels")):
        with pytest.raises(NothingShownError, match="no longer keeps this picture; press Segment again"):
            question()
    with pytest.raises(ValueError, match="there is no picture; drop one"):
        answering.segment("a", None, WORDS, "", "ESC-Net")
    with pytest.raises(ValueError, match='there is no model "GPT"; there are ESC-Net'):
        answering.segment("a", UPLOAD, WORDS, "", "GPT")
    with pytest.raises(VocabularyError, match="is the same as"):
        answering.segment("a", UPLOAD, "cat, cat", "", "ESC-Net")
    assert encodings == []
    answering.segment("a", UPLOAD, WORDS, "", "ESC-Net")
    with pytest.raises(PromptError, match="ESCNet does not take prompts for words"):
        answering.point("a", {"castle": {"points": [[1, 2]]}})
    with pytest.raises(PromptError, match="ESCNet draws no masks from prompts"):
        answering.point_without_word("a", {"points": [[1, 2]]})
    with pytest.raises(PromptError, match="nothing to point at"):
        answering.point_without_word("a", {})
    answering.segment("a", UPLOAD, WORDS, "", "CLIP-Guided SAM")
    with pytest.raises(PromptError, match=r"the point \(900, 2\) is outside the image"):
        answering.point("a", {"castle": {"points": [[900, 2]]}})
    # What was shown before is still there.
    assert answering.file("a", "labels")["file"]["name"] == "my castle_labels.png"


def test_the_maps_of_a_model(answering: Answering) -> None:
    answering.segment("a", UPLOAD, WORDS, "", "ESC-Net")
    url, text = answering.maps("a")
    assert Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).width > 800
    assert text == "CLIP's maps, prompts and blocks of ESC-Net: my castle.jpg"


def test_a_model_of_ones_own_comes_first() -> None:
    own, *others = offered_models("configs/escnet/vitb16.yaml", "model_final.pth", ["MODEL.DEVICE", "cpu"])
    assert (own.name, own.weights, own.opts) == ("vitb16", "model_final.pth", ("MODEL.DEVICE", "cpu"))
    assert tuple(others) == SHIPPED == offered_models(None, None)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_the_examples_have_words_that_are_there(answering: Answering, example: Any) -> None:
    payload = answering.segment("a", (example.file, "x.jpg"), example.words, example.background, "ESC-Net")
    assert len(payload["classes"]) >= 3

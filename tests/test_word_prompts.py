"""What a user points at: what is refused and why, whose word it is, and what of it reaches a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import escnet
from escnet.meta_arch import ClipGuidedSam, SamClip
from escnet.meta_arch.interfaces import MaskPrediction, PromptableModel
from escnet.vocabulary import Vocabulary
from escnet.word_prompts import PromptError, WordPrompts, model_prompts, prompts_by_row

WORDS = Vocabulary(["cat, kitty", "grass", "dog, pet", "guinea pig, pet"], ["wall", "sky"])


class Model(PromptableModel):
    """Of 40x40 pixels and masks of 4x4, which it answers with nothing."""

    input_size, mask_size = 40, (4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def masks(self, features: Any, prompts: Any, words: Any = None, multimask: bool = False) -> MaskPrediction:
        raise NotImplementedError


def a_mask(rows: Sequence[int] = (2, 5), size: tuple[int, int] = (20, 40)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[rows[0] : rows[1], 3:30] = True
    return mask


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to point at; give points, a box or a mask"),
        ({"points": []}, "nothing to point at"),
        ({"points": [(1, 2)], "labels": [0]}, "all points have the label 0.*a box or a mask"),
        ({"points": (120, 80)}, r"points has 120; give a list of \(x, y\)"),
        ({"points": [(1, 2), (3,)]}, r"points has \(3,\)"),
        ({"points": [(1, 2), (float("nan"), 3)]}, r"points has \(nan, 3\).*finite"),
        ({"points": [(1, "2")]}, "points has"),
        ({"points": [(1, True)]}, "points has"),
        ({"points": "12"}, "points has '12'"),
        ({"points": [(1, 2)], "labels": [1, 1]}, "labels has 2 of them, points 1"),
        ({"labels": [1], "box": (1, 2, 3, 4)}, "labels has 1 of them, points 0"),
        ({"points": [(1, 2)], "labels": [2]}, "labels has 2;"),
        ({"points": [(1, 2)], "labels": 1}, "labels has 1;"),
        ({"points": [(1, 2)], "labels": ["1"]}, "labels has '1'"),
        ({"box": (1, 2, 3)}, r"box is \(1, 2, 3\)"),
        ({"box": (1, 2, float("inf"), 4)}, "box is"),
        ({"box": (10, 2, 5, 9)}, r"\(10, 2, 5, 9\) has x2 = 5, which has to be above x1 = 10.*not a corner and a size"),
        ({"box": (1, 9, 5, 9)}, "y2 = 9"),
        ({"mask": np.zeros((3, 4), bool)}, "mask is empty"),
        ({"mask": np.ones((3, 4, 1), bool)}, r"shape \(3, 4, 1\) and type bool"),
        ({"mask": np.ones((3, 4))}, "float64; give an array .*scores > 0.5"),
        ({"mask": [[True]]}, r"mask is \[\[True\]\]"),
        ({"point": [(1, 2)]}, "no 'point'; there are points, labels, box, mask"),
        ([(1, 2)], "give WordPrompts"),
    ],
)
def test_what_is_no_prompt_is_refused(given: Any, message: str) -> None:
    with pytest.raises(PromptError, match=f'^the prompts of "kitty": .*{message}'):
        prompts_by_row({"kitty": given}, WORDS, ClipGuidedSam)
    if isinstance(given, dict) and "point" not in given:
        with pytest.raises(PromptError, match=message):
            WordPrompts(**given)


def test_every_form_of_numbers_is_understood() -> None:
    points, labels, box = [[1, 2.5], [3, 4]], [1, 0], [0, 1, 5, 6]
    plain = WordPrompts(points, labels, box, a_mask())
    for kind in (tuple, np.array, torch.tensor):
        other = WordPrompts(kind(points), kind(labels), kind(box), torch.from_numpy(a_mask().astype(np.uint8) * 255))
        assert other.record() == plain.record()
    single = WordPrompts([np.array([1, 2.5]), (np.float32(3), torch.tensor(4))], [True, np.bool_(False)], box, a_mask())
    assert single.record() == plain.record()
    assert WordPrompts([(1, 2), (3, 4)]).labels == (1, 1)
    assert WordPrompts([(1, 2)], [0], box).labels == (0,)
    assert WordPrompts.of({"points": points, "labels": None, "box": None}).record()["labels"] == [1, 1]
    assert WordPrompts.of(plain) is plain
    assert escnet.WordPrompts is WordPrompts


@pytest.mark.parametrize(
    ("word", "row"),
    [("cat", 0), ("Kitty", 0), ("cat|kitty", 0), ("cat, kitty", 0), ("grass", 1), ("dog", 2), ("wall", 4), ("sky", 5)],
)
def test_a_word_is_named_by_its_name_or_a_synonym(word: str, row: int) -> None:
    named = prompts_by_row({word: {"box": (1, 2, 3, 4)}}, WORDS, ClipGuidedSam)
    assert list(named) == [row] and named[row].word == word


def test_a_whole_name_goes_before_a_synonym() -> None:
    words = Vocabulary(["dog, pet", "pet"])
    assert list(prompts_by_row({"pet": {"box": (1, 2, 3, 4)}}, words, ClipGuidedSam)) == [1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gras",), '"gras", which is not in the vocabulary; it has 8 words, such as "grass"'),
        (("xyz",), '"xyz", which is not in the vocabulary'),
        (("pet",), 'several classes; name one, "dog, pet", "guinea pig, pet"'),
        (("background",), '"background"; name one of its words instead, such as "wall", "sky"'),
        (("cat", "kitty"), '"cat" and of "kitty", which are one class: join them'),
        ((7,), "prompts of 7"),
    ],
)
def test_a_word_that_cannot_be_used_is_named(words: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        prompts_by_row({word: {"box": (1, 2, 3, 4)} for word in words}, WORDS, ClipGuidedSam)


def test_what_takes_no_prompts_for_words_is_refused() -> None:
    with pytest.raises(PromptError, match=r"SamClip does not take prompts for words.*configuration of ClipGuidedSam"):
        prompts_by_row({"cat": {"box": (1, 2, 3, 4)}}, WORDS, SamClip)
    assert prompts_by_row({}, WORDS, SamClip) == {}
    with pytest.raises(PromptError, match=r'give those of each word, \{"cat": '):
        prompts_by_row([WordPrompts([(1, 2)])], WORDS, ClipGuidedSam)


def test_pixels_of_the_image_become_those_of_the_square_input() -> None:
    prompts = WordPrompts([(0, 0), (79, 19), (19.5, 9.5)], [1, 0, 1], (-0.5, -0.5, 79.5, 19.5))
    found = prompts.for_model(Model(), (20, 80))
    # Half as wide, twice as high: the middle of the first pixel is a quarter, and a whole pixel, from the edge.
    assert found.points.tolist() == [[[-0.25, 0.5], [39.25, 38.5], [9.5, 19.5]]]
    assert found.labels.tolist() == [[1, 0, 1]] and found.labels.dtype == torch.float
    assert found.boxes.tolist() == [[-0.5, -0.5, 39.5, 39.5]] and found.masks is None
    alone = WordPrompts(box=(0, 0, 10, 10)).for_model(Model(), (20, 80))
    assert alone.points.shape == (1, 0, 2) and alone.labels.shape == (1, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"points": [(3, 4), (40, 4)]},
            r"the point \(40, 4\) is outside .* 40 pixels wide and 20 high; x goes",
        ),
        ({"points": [(3, 20)]}, r"\(3, 20\) is outside.*y from 0 to 19"),
        ({"points": [(-1, 3)]}, "is outside"),
        ({"box": (-1, 0, 3, 3)}, r"the box \(-1, 0, 3, 3\) reaches outside .* 40 pixels wide and 20 high; cut it off"),
        ({"box": (0, 0, 41, 3)}, "reaches outside"),
        ({"box": (50, 50, 60, 60)}, "reaches outside"),
        ({"mask": a_mask(size=(20, 39))}, "mask is 39 pixels wide and 20 high, but the image 40 and 20"),
    ],
)
def test_what_does_not_fit_the_image_is_named_with_its_size(given: dict[str, Any], message: str) -> None:
    named = prompts_by_row({"cat": given}, WORDS, ClipGuidedSam)
    with pytest.raises(PromptError, match=f'the prompts of "cat": .*{message}'):
        model_prompts(named, Model(), (20, 40))


def test_boxes_may_end_where_the_image_does() -> None:
    for box in ((0, 0, 39, 19), (-0.5, -0.5, 39.5, 19.5), (0, 0, 40, 20)):
        WordPrompts(box=box).for_model(Model(), (20, 40))


def test_a_mask_becomes_logits_of_the_cells_of_which_it_covers_half() -> None:
    # Cells of 5 rows and 10 columns.
    mask = np.zeros((20, 40), bool)
    mask[0:5, 0:10] = True
    mask[5:10, 0:5] = True
    mask[10:15, 0:4] = True
    found = WordPrompts(mask=mask).for_model(Model(), (20, 40)).masks
    assert found.shape == (1, 1, 4, 4)
    assert found[0, 0, :, 0].tolist() == [8, 8, -8, -8] and (found[0, 0, :, 1:] == -8).all()


def test_a_small_mask_keeps_the_cells_that_it_covers_most() -> None:
    mask = np.zeros((20, 40), bool)
    mask[6:8, 11:13] = True
    mask[0, 0] = True
    found = WordPrompts(mask=mask).for_model(Model(), (20, 40)).masks
    assert (found[0, 0] == 8).nonzero().tolist() == [[1, 1]]


def test_a_mask_is_read_from_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(a_mask()).save(tmp_path / "cat.png")
    expected = WordPrompts(mask=a_mask()).for_model(Model(), (20, 40)).masks
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (tmp_path / "cat.png", str(tmp_path / "cat.png"), "~/cat.png"):
        assert torch.equal(WordPrompts(mask=path).for_model(Model(), (20, 40)).masks, expected)
    Image.new("L", (40, 20)).save(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (("empty", "is empty"), ("text", "is not an image"), ("absent", "does not exist")):
        with pytest.raises(PromptError, match=rf'prompts of "cat".*{name}\.png.*{message}'):
            named = prompts_by_row({"cat": {"mask": tmp_path / f"{name}.png"}}, WORDS, ClipGuidedSam)
            model_prompts(named, Model(), (20, 40))


def test_a_record_tells_other_prompts(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    Image.fromarray(a_mask()).save(path)
    of_file = WordPrompts(mask=path)
    full = WordPrompts([(1, 2)], None, (1, 2, 3, 4), a_mask()).record()
    assert json.loads(json.dumps(full)) == full and full["points"] == [[1, 2]] and full["box"] == [1, 2, 3, 4]
    assert WordPrompts(mask=a_mask()).record() == WordPrompts(mask=a_mask()).record()
    assert WordPrompts(mask=a_mask()).record() != WordPrompts(mask=a_mask((2, 6))).record()
    assert WordPrompts(mask=a_mask(size=(40, 80))).record() != WordPrompts(mask=a_mask(size=(80, 40))).record()
    before = of_file.record()
    assert before["mask"]["file"] == str(path)
    Image.fromarray(a_mask((2, 6))).save(path)
    assert of_file.record() != before
    path.unlink()
    with pytest.raises(PromptError, match=r"cat\.png cannot be read"):
        of_file.record()
